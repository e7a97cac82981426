"""Owns `lookalike fit` and `lookalike demo`. The module is quick to import: torch and Ray load only when a command
runs."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from encoder.options import Config, Paths, encoder_section, require_file
from encoder.progress import progress_bar
from lookalike.cli.options import Json, print_json
from lookalike.model.codespace import MAX_BITS, MIN_BITS, CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.config import EncoderConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Sample = Annotated[
    int, typer.Option(help="How many of the images to fit to; they are picked at even intervals.", min=1)
]


def fit_command(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The .npz file to write; name it in encoder.hash.")],
    method: Annotated[
        Literal["centred", "pca", "itq"] | None,
        typer.Option(
            help="centred: LSH of features minus their mean. pca, itq: rotations of the principal directions. "
            "itq, the default, is best for finding a class; near-duplicates are best found without a hash file."
        ),
    ] = None,
    bits: Annotated[
        int, typer.Option(help="Width of the codes: a multiple of 8.", min=MIN_BITS, max=MAX_BITS)
    ] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers.", min=0, max=2**32 - 1)] = 0,
    config: Config = None,
    encoder: Annotated[
        str, typer.Option(help="The name of the encoder in the config.", metavar="NAME")
    ] = DEFAULT_ENCODER,
    sample: Sample = 2_000,
    as_json: Json = False,
) -> None:
    """Fit a hash to a sample of images, without labels; its codes find more images of a class than those of LSH.

    They are worse at near-duplicates: ITQ gives many different pictures the same code. The codes are in a new code
    space, so they need a new collection. With labels, `lookalike train` gives even better codes for their
    classes."""
    from encoder.hashing import check_size
    from encoder.purpose import CHOICES
    from lab.fitting import CENTRED, fit

    require_file("output", output)
    settings = encoder_section(config, encoder).model_copy(update={"hash": None})
    method = method or CHOICES[settings.purpose].fit_method
    if method is None:
        raise InvalidRequest(
            f"method: `purpose: {settings.purpose}` finds most without a hash file; leave encoder.hash out, or"
            " name a method"
        )
    CodeSpace(bits)
    features, made_by = _sample_features(paths, settings, sample, as_json)
    if method != CENTRED:
        check_size(bits, features.shape[1])
    output.write_bytes(fit(method, features, bits, seed, made_by).to_bytes())
    if as_json:
        print_json({"output": str(output), "method": method, "bits": bits, "images": len(features)})
    else:
        print(f"{output}: {method}, {bits} bits, fitted to {len(features):,} images; set encoder.hash to it")


def demo(
    images: Annotated[
        Path | None, typer.Option(help="A folder of your own images instead of the bundled photographs.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the cluster running until Ctrl-C.")] = False,
    output: Annotated[Path, typer.Option(help="Where to write the contact sheet.")] = Path("demo.html"),
    as_json: Json = False,
) -> None:
    """Start a cluster of four shards, ingest real photographs, and find them again.

    Searches with altered views that are not in the index, compares the cluster's answers with a brute-force scan,
    and writes a contact sheet. Only the sheet remains when the demo ends."""
    from lab.demo.command import run_demo

    run_demo(images, keep, output, as_json)


def _sample_features(
    paths: list[str], settings: EncoderConfig, sample: int, as_json: bool
) -> tuple[npt.NDArray[np.float32], str]:
    """Returns the features of at most `sample` images, picked at even intervals, float32 (n, width); and a
    canonical description of the network that computed them."""
    import numpy as np

    from encoder.features import FeatureModel
    from encoder.ingest.images import read
    from encoder.ingest.sources import find_sources
    from lookalike.transport.rpc import MAX_IMAGE_BYTES

    sources = find_sources(paths).sources
    places = np.unique(np.linspace(0, len(sources) - 1, min(sample, len(sources))).astype(int))
    chosen = [sources[place] for place in places.tolist()]
    network = FeatureModel(
        settings.model, None if settings.weights is None else Path(settings.weights), settings.layer,
        settings.device, settings.precision, decode_threads=os.cpu_count() or 1,
    )  # fmt: skip
    files = [functools.partial(read, source.url, MAX_IMAGE_BYTES) for source in chosen]
    parts = []
    with progress_bar(as_json) as progress:
        task = progress.add_task("encoding", total=len(files))
        for is_readable, features in network.stream(files):
            parts.append(features)
            progress.advance(task, len(is_readable))
    if not any(map(len, parts)):
        raise InvalidRequest("path: no image can be read; name a folder of photographs")
    return np.concatenate(parts), str(network)
