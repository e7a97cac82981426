"""Owns features of whole image sets, kept on disk: encoded once, whatever is fitted, trained or measured on them.

A file is found by what decides its content: the images, the network, its weights, layer, preprocessing and
precision. It appears when it is complete, so a job that was killed leaves nothing that looks done."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import psutil

from encoder.features import FeatureModel
from lab.datasets import LabelledImages
from lookalike.model.errors import InvalidRequest

# Raised when decoding, or the way in which networks are computed, changes what features are.
_VERSION = 1
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
    text = f"{_VERSION} {images.digest} {network} {network.dtype} {network.device.type}"
    path = folder / "features" / f"{images.name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npy"
    shape = (len(images.keys), network.width)
    if (found := _load(path, shape)) is not None:
        progress(len(images.keys))
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, lambda file: _encode(images, network, file, progress))
    except OSError as error:
        raise InvalidRequest(
            f"cache: {path.parent} cannot be written to ({error.strerror}); free space, or name another folder"
        ) from None
    found = _load(path, shape)
    assert found is not None, f"{path} is not what was written"
    return found


def require_memory(needed: int, name: str, layer: str) -> None:
    """Raise InvalidRequest, before hours of work, when so many bytes are not free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise InvalidRequest(
            f"layer: {layer} features of {name} need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free;"
            " take a narrower layer, or fewer images with --limit"
        )


def _load(path: Path, shape: tuple[int, int]) -> Features | None:
    """What is kept in this file; None if there is nothing, or it is damaged."""
    try:
        found: Features = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape else None


def _write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Make a file that is there whole or not at all, whoever else makes it now."""
    descriptor, unfinished = tempfile.mkstemp(".part", path.stem, path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # a cache may be shared; mkstemp's files are their owner's alone
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _encode(
    images: LabelledImages, network: FeatureModel, file: IO[bytes], progress: Callable[[int], None]
) -> None:
    """Write the features in the order of the images, as numpy.save would."""
    count = len(images.keys)
    kind = np.dtype("<f2" if network.width > _WIDE else "<f4")
    header = {"descr": kind.str, "fortran_order": False, "shape": (count, network.width)}
    np.lib.format.write_array_header_1_0(file, header)
    for is_readable, features in network.stream([functools.partial(images.read, row) for row in range(count)]):
        rows = np.full((len(is_readable), network.width), np.nan, kind)
        rows[is_readable] = features
        file.write(rows.tobytes())
        progress(len(rows))
