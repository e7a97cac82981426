"""Owns the commands that the encoder brings to `lookalike`: ingest, fit, fit-mean, demo. Light to import: torch
and Ray load when a command runs."""

from __future__ import annotations

import dataclasses
import functools
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from encoder.options import require_file
from lookalike.cli.options import (
    DEFAULT_COLLECTION,
    DEFAULT_SERVER,
    CollectionName,
    Json,
    Server,
    connect,
    print_json,
)
from lookalike.codespace import MAX_BITS, MIN_BITS, CodeSpace
from lookalike.config import EncoderConfig, load_config
from lookalike.errors import CannotStart, InvalidRequest, PartitionUnavailable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from encoder.ingest import job

_REACH_SECONDS = 5.0

Paths = Annotated[list[str], typer.Argument(help="Folders, globs, files, or URLs such as s3://bucket/photos.")]
Sample = Annotated[int, typer.Option(help="How many images to take, evenly spread.", min=1)]
Config = Annotated[
    Path | None, typer.Option(help="The cluster's config: its encoder section says how images are encoded.")
]


def ingest(
    paths: Paths,
    collection: CollectionName = DEFAULT_COLLECTION,
    config: Config = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Encoding processes; one per processor, or per GPU share, by default.", min=1),
    ] = None,
    report: Annotated[
        Path, typer.Option(help="Where to list the files that could not be read, a JSON line each.")
    ] = Path("ingest-report.jsonl"),
    patience: Annotated[
        float, typer.Option(help="Seconds to keep trying while the cluster does not take records.", min=0)
    ] = 300.0,
    thumbnails: Annotated[
        bool, typer.Option(help="Store a small picture, at most 10 kB, with each record, to show.")
    ] = True,
    server: Server = DEFAULT_SERVER,
    as_json: Json = False,
) -> None:
    """Encode images and store them, with the folder's name as the label.

    Can be stopped at any time and started again: what is stored and unchanged is not encoded again. A file
    that cannot be read goes to the report and never ends the job. Exit code 0 when every readable image is
    stored."""
    from encoder.ingest import job
    from encoder.ingest.sources import find_sources
    from encoder.ray_session import native_output_in_log, ray_session
    from encoder.spec import EncoderSpec

    started = time.monotonic()
    settings = _encoder_section(config)
    spec = EncoderSpec.from_config(settings)
    sources, refused = find_sources(paths)
    _require_reachable(server)
    summary = job.Summary(found=len(sources) + len(refused), unreadable=len(refused))
    pool = _workers(settings, workers)
    # Ray first: it forks its processes off this one, and a fork beside gRPC's threads can hang.
    with (
        native_output_in_log(),
        job.Report(report) as bad_files,
        ray_session(settings.ray_address, pool.count + 1),
        connect(server) as client,
        _progress(as_json) as progress,
    ):
        for url, reason in refused:
            bad_files.add(url, None, reason)
        checking = progress.add_task("checking", total=len(sources))
        target = job.open_collection(client, collection)
        missing = job.missing_sources(client, collection, sources, lambda n: progress.advance(checking, n))
        summary.already_stored = len(sources) - len(missing)
        encoding = progress.add_task("encoding", total=len(missing))
        job.run(
            client, target, missing, spec, pool, bad_files, summary,
            lambda n: progress.advance(encoding, n), patience, thumbnails,
        )  # fmt: skip
    summary.seconds = time.monotonic() - started
    _print_summary(summary, report, as_json)
    if summary.not_stored:
        raise PartitionUnavailable(f"{summary.not_stored:,} images were refused by the cluster; see {report}")


def fit_command(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The .npz file to write; name it in encoder.hash.")],
    method: Annotated[
        Literal["centred", "pca", "itq"],
        typer.Option(help="centred: LSH about the mean. pca, itq: rotations of the main directions; itq is best."),
    ] = "itq",
    bits: Annotated[
        int, typer.Option(help="Width of the codes: a multiple of 8.", min=MIN_BITS, max=MAX_BITS)
    ] = 128,
    seed: Annotated[int, typer.Option(help="Of what is drawn.", min=0, max=2**32 - 1)] = 0,
    config: Config = None,
    sample: Sample = 2_000,
    as_json: Json = False,
) -> None:
    """Fit a hash to a sample of images, without labels: better codes than random hyperplanes at equal bits.

    It is another code space: make the collection with it. Labels make still better codes: see `lookalike
    train`."""
    from encoder.fitting import CENTRED, fit
    from encoder.hashing import check_size

    CodeSpace(bits)
    require_file("output", output)
    settings = _encoder_section(config).model_copy(update={"mean": None, "hash": None})
    features, made_by = _sample_features(paths, settings, sample, as_json)
    if method != CENTRED:
        check_size(bits, features.shape[1])
    output.write_bytes(fit(method, features, bits, seed, made_by).to_bytes())
    if as_json:
        print_json({"output": str(output), "method": method, "bits": bits, "images": len(features)})
    else:
        print(f"{output}: {method}, {bits} bits, fitted to {len(features):,} images; set encoder.hash to it")


def fit_mean_command(
    paths: Paths,
    output: Annotated[Path, typer.Option(help="The .npy file to write; name it in encoder.mean.")],
    config: Config = None,
    sample: Sample = 2_000,
    as_json: Json = False,
) -> None:
    """Fit the mean of the features on a sample of images, to centre them before hashing.

    Better codes at few bits, for images alike those of the sample. It is another code space: make the
    collection with it."""
    import numpy as np

    from encoder.fitting import fit_mean

    require_file("output", output)
    features, _ = _sample_features(paths, _encoder_section(config), sample, as_json)
    with output.open("wb") as file:
        np.save(file, fit_mean(features))
    if as_json:
        print_json({"output": str(output), "images": len(features)})
    else:
        print(f"{output}: mean of {len(features):,} images; set encoder.mean to it")


def demo(
    images: Annotated[
        Path | None, typer.Option(help="A folder of your own pictures instead of the bundled photographs.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster up until Ctrl-C.")] = False,
    output: Annotated[Path, typer.Option(help="Where to write the contact sheet.")] = Path("demo.html"),
    as_json: Json = False,
) -> None:
    """Start a cluster of four shards, ingest real photographs, and find them again.

    Searches with views that are not in the index, compares the cluster's answers with a brute-force scan,
    and writes a contact sheet. Everything but the sheet is gone when it ends."""
    from encoder.demo.command import run_demo

    run_demo(images, keep, output, as_json)


def _sample_features(
    paths: list[str], settings: EncoderConfig, sample: int, as_json: bool
) -> tuple[npt.NDArray[np.float32], str]:
    """Features of at most `sample` images, spread evenly over all: float32 (n, width); and what makes them."""
    import numpy as np

    from encoder.features import FeatureModel
    from encoder.ingest.sources import find_sources, read
    from lookalike.rpc import MAX_IMAGE_BYTES

    sources, _ = find_sources(paths)
    places = np.unique(np.linspace(0, len(sources) - 1, min(sample, len(sources))).astype(int))
    chosen = [sources[place] for place in places.tolist()]
    network = FeatureModel(
        settings.model, None if settings.weights is None else Path(settings.weights), settings.layer,
        settings.device, settings.precision, decode_threads=os.cpu_count() or 1,
    )  # fmt: skip
    files = [functools.partial(read, source.url, MAX_IMAGE_BYTES) for source in chosen]
    parts = []
    with _progress(as_json) as progress:
        task = progress.add_task("encoding", total=len(files))
        for is_readable, features in network.stream(files):
            parts.append(features)
            progress.advance(task, len(is_readable))
    if not any(map(len, parts)):
        raise InvalidRequest("path: none of the images could be read; name a folder of photographs")
    return np.concatenate(parts), str(network)


def _require_reachable(server: str) -> None:
    """A wrong address is said at once, not after Ray has started. gRPC's other forms of address (dns:///,
    lists) are left to gRPC."""
    if any(mark in server for mark in "/,"):
        return
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise PartitionUnavailable(f"server: {server} does not answer ({error}); is the cluster up?") from None


def _encoder_section(config: Path | None) -> EncoderConfig:
    if config is None:
        return EncoderConfig()
    section = load_config(config).encoder
    if section is None:
        raise CannotStart(f"config: {config} has no encoder section; add one, or leave --config out")
    return section


def _workers(settings: EncoderConfig, count: int | None) -> job.Workers:
    """One actor per processor; with GPUs as many as their shares allow, decoding in threads."""
    from encoder.ingest import job

    if not settings.gpus_per_replica:
        return job.Workers(count or os.cpu_count() or 1)
    import torch

    shares = max(1, int(torch.cuda.device_count() / settings.gpus_per_replica))
    own = count or shares
    return job.Workers(own, settings.gpus_per_replica, max(1, (os.cpu_count() or 1) // own))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s")


def _progress(as_json: bool) -> Progress:
    """A bar on standard error, where standard error is a terminal and people read."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(),
        TextColumn("left"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=as_json,
    )  # fmt: skip


def _print_summary(summary: job.Summary, report: Path, as_json: bool) -> None:
    if as_json:
        print_json({**dataclasses.asdict(summary), "report": str(report)})
        return
    print(
        f"{summary.found:,} images: {summary.stored:,} stored, {summary.already_stored:,} were stored already,"
        f" {summary.unreadable:,} could not be read, {summary.not_stored:,} refused;"
        f" {summary.seconds:.1f} s, {summary.images_per_second:.0f} images/s once running"
    )
    if summary.unreadable or summary.not_stored:
        print(f"see {report}")
