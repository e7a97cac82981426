"""Owns features of whole image sets, kept on disk: encoded once, whatever is fitted, trained or measured on them.

A file is found by what decides its content: the images, the network, its weights, layer, preprocessing and
precision. It appears when it is complete, so a job that was killed leaves nothing that looks done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoder.datasets import LabelledImages
from encoder.features import FeatureModel, ahead, stacked
from encoder.images import UnreadableImage

BATCH_IMAGES = 32
# A flattened map of many thousand images would fill the disk; half the bytes cost no visible retrieval.
_WIDE = 16_384

Features = npt.NDArray[np.floating]


def default_folder() -> Path:
    """Where caches belong on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike"


def features_of(
    images: LabelledImages, network: FeatureModel, folder: Path, progress: Callable[[int], None]
) -> Features:
    """The features of all images of a set, memory-mapped: float32 (n, width), float16 for wide layers. The row of
    an image that cannot be read is NaN. progress: gets the number of images that came since it was called last."""
    text = f"{images.digest} {network} {network.dtype} {network.device.type}"
    path = folder / "features" / f"{images.name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npy"
    if path.exists():
        progress(len(images.keys))
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            _encode(images, network, unfinished, progress)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
    found: Features = np.load(path, mmap_mode="r")
    return found


def _encode(images: LabelledImages, network: FeatureModel, path: Path, progress: Callable[[int], None]) -> None:
    count = len(images.keys)
    kind = np.float16 if network.width > _WIDE else np.float32
    rows = np.lib.format.open_memmap(path, "w+", kind, (count, network.width))
    starts = range(0, count, BATCH_IMAGES)

    def load(number: int) -> list[npt.NDArray[np.uint8] | UnreadableImage]:
        return network.decode(
            [images.read(row) for row in range(starts[number], min(starts[number] + BATCH_IMAGES, count))]
        )

    for start, decoded in zip(starts, ahead(load, len(starts)), strict=True):
        readable = [start + at for at, item in enumerate(decoded) if not isinstance(item, UnreadableImage)]
        rows[start : start + len(decoded)] = np.nan
        if (pixels := stacked(decoded)) is not None:
            rows[readable] = network.features(pixels).cpu().numpy()
        progress(len(decoded))
    rows.flush()
