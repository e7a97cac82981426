"""Owns the features of whole image sets on disk: images are encoded only once for fitting, training and
evaluation.

A file's name is a digest of everything that determines its content: the images, the network, its weights, layer,
preprocessing and precision. A file gets this name only after all features are written, so a killed job leaves no
partial file in the cache."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
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

# Increment this when a change of decoding or computation changes the features.
_VERSION = 1
# Features wider than this are stored as float16, to save disk space. No loss of retrieval quality is visible.
_WIDE = 16_384

Features = npt.NDArray[np.floating]


def default_folder() -> Path:
    """The user's cache folder for this project."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "lookalike"


def features_of(
    images: LabelledImages, network: FeatureModel, folder: Path, progress: Callable[[int], None]
) -> Features:
    """Returns the features of all images of a set. Reads them from the cache, or encodes the images and caches the
    features.

    Args:
        images: The set, of n images.
        network: The network.
        folder: The cache's folder.
        progress: Called with the number of images that were encoded since the last call.

    Returns:
        Memory-mapped float32 (n, width), float16 for wide layers. An unreadable image has a row of NaN.

    Raises:
        InvalidRequest: If the folder cannot be written to, or has too little space.
    """
    path, shape = _path_of(images, network, folder), (len(images.keys), network.width)
    if (found := _load(path, shape)) is not None:
        progress(len(images.keys))
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_disk(len(images.keys) * bytes_per_image(network), path.parent)
        _write(path, lambda file: _encode(images, network, file, progress))
    except OSError as error:
        raise InvalidRequest(
            f"cache: {path.parent} cannot be written to ({error.strerror}); free space, or name another folder"
        ) from None
    found = _load(path, shape)
    assert found is not None, f"{path} is not what was written"
    return found


def folder_in(cache: Path) -> Path:
    """The folder of the features in a cache folder."""
    return cache / "features"


def is_cached(images: LabelledImages, network: FeatureModel, cache: Path) -> bool:
    """Whether the features of a set are in the cache."""
    return _load(_path_of(images, network, cache), (len(images.keys), network.width)) is not None


def bytes_per_image(network: FeatureModel) -> int:
    """The size of an image's features in the cache."""
    return network.width * _kind(network).itemsize


def require_memory(needed: int, name: str, layer: str) -> None:
    """Raises InvalidRequest, before hours of work, unless this many bytes of memory are free."""
    free = psutil.virtual_memory().available
    if needed > free:
        raise InvalidRequest(
            f"layer: {layer} features of {name} need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free;"
            " use a narrower layer, or fewer images with --limit"
        )


def _require_disk(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InvalidRequest(
            f"cache: the features need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} free; name another"
            " folder, or fewer images with --limit"
        )


def _path_of(images: LabelledImages, network: FeatureModel, cache: Path) -> Path:
    text = f"{_VERSION} {images.digest} {network} {network.dtype} {network.device.type}"
    return folder_in(cache) / f"{images.name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}.npy"


def _kind(network: FeatureModel) -> np.dtype[np.floating]:
    return np.dtype("<f2" if network.width > _WIDE else "<f4")


def _load(path: Path, shape: tuple[int, int]) -> Features | None:
    """The features in a file; None if it is missing or damaged."""
    try:
        found: Features = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == shape else None


def _write(path: Path, fill: Callable[[IO[bytes]], None]) -> None:
    """Writes a file atomically, even if another process writes it at the same time."""
    descriptor, unfinished = tempfile.mkstemp(".part", path.stem, path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)  # a cache may be shared, but only the owner can read mkstemp's files
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _encode(
    images: LabelledImages, network: FeatureModel, file: IO[bytes], progress: Callable[[int], None]
) -> None:
    """Writes the features in the order of the images, in the format of numpy.save."""
    count = len(images.keys)
    kind = _kind(network)
    header = {"descr": kind.str, "fortran_order": False, "shape": (count, network.width)}
    np.lib.format.write_array_header_1_0(file, header)
    for is_readable, features in network.stream([functools.partial(images.read, row) for row in range(count)]):
        rows = np.full((len(is_readable), network.width), np.nan, kind)
        rows[is_readable] = features
        file.write(rows.tobytes())
        progress(len(rows))
