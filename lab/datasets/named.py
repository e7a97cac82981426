"""Owns the well-known image sets (cifar10, caltech101, flowers102, coco2017), and loads a set by its name or path.

Downloads are kept in the data folder, in torchvision's layout. The module `coco` reads COCO's format;
`folders` and `archives` read a set at a path. A set that cannot be fetched raises CannotStart."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab.datasets import coco
from lab.datasets.archives import ARCHIVES, archive_suffix, extracted
from lab.datasets.folders import find_images, load_folder, split_files
from lab.datasets.labelled import (
    LabelledImages,
    limit_both_sides,
    mark_of,
    one_hot,
    reason,
    split_per_class,
    split_pool,
)
from lookalike.model.errors import CannotStart, InvalidRequest

# What torchvision raises for an invalid download, archive or file of a set.
_FETCH_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    EOFError,
    zlib.error,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def load_dataset(
    name_or_path: str, *, data: Path, seed: int = 0, download: bool = True, limit: int | None = None
) -> LabelledImages:
    """Loads a labelled set.

    Args:
        name_or_path: The name of a well-known set, or the path of a folder or archive with a sub-folder per class.
        data: The folder of well-known sets.
        seed: Seed of the split.
        download: Download a well-known set that is not in `data`.
        limit: The most images to use; they are spread evenly over the classes.

    Raises:
        InvalidRequest: If `name_or_path` is neither the name of a well-known set nor the path of a folder or
            archive, or if `seed` or `limit` is out of range.
        CannotStart: If a well-known set is missing or incomplete.
    """
    if limit is not None and limit < 2:
        raise InvalidRequest(f"limit: {limit} leaves no images to index or to query with; use 2 or more")
    if not 0 <= seed < 2**32:
        raise InvalidRequest(f"seed: {seed}; use 0 to {2**32 - 1}")
    if load := _NAMED.get(name_or_path):
        images = limit_both_sides(load(data, seed, download), limit, seed)
        return dataclasses.replace(images, is_well_known=True)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return load_folder(path, path.resolve().name, seed, limit)
    if path.is_file() and (suffix := archive_suffix(path)):
        return load_folder(extracted(path, suffix, data), path.name[: -len(suffix)], seed, limit)
    problem = (
        f"is not an archive ({', '.join(ARCHIVES)})"
        if path.is_file()
        else "is neither the name of a set nor a path"
    )
    raise InvalidRequest(
        f"dataset: {name_or_path} {problem}; use {', '.join(_NAMED)}, or a folder with one sub-folder a class"
    )


def _load_cifar10(data: Path, seed: int, download: bool) -> LabelledImages:
    with _needed("cifar10", data / "cifar-10-batches-py", download):
        from torchvision.datasets import CIFAR10

        train = CIFAR10(data, train=True, download=download)
        test = CIFAR10(data, train=False)
    return cifar10_images(train, test, seed)


def cifar10_images(train: Any, test: Any, seed: int) -> LabelledImages:
    """Indexes 80 % of each class's training images; all test images are queries. train, test: torchvision's
    CIFAR10 sets, with data uint8 (n, 32, 32, 3), targets and classes. The set returns its images as PNG files."""
    pixels = np.concatenate([train.data, test.data])
    targets = np.array([*train.targets, *test.targets], np.int64)
    first_query = len(train.data)
    keys = [f"train/{row:05d}.png" for row in range(first_query)]
    keys += [f"test/{row:05d}.png" for row in range(len(test.data))]

    def read(row: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels[row]).save(file, "PNG")
        return file.getvalue()

    return LabelledImages(
        name="cifar10",
        classes=tuple(train.classes),
        labels=one_hot(targets, len(train.classes)),
        keys=tuple(keys),
        indexed=split_per_class(targets[:first_query], seed)[0],
        queries=np.arange(first_query, len(pixels)),
        read=read,
        # Not `mark_of`: there are no files. Nor the PNG's size: it depends on the version of the compressor.
        marks=tuple(str(zlib.crc32(image.tobytes())) for image in pixels),
    )


def _load_caltech101(data: Path, seed: int, download: bool) -> LabelledImages:
    folder = data / "caltech101" / "101_ObjectCategories"
    with _needed("caltech101", folder, download):
        if not folder.is_dir():
            from torchvision.datasets import Caltech101

            Caltech101(data, download=download)
        found = [image for image in find_images(folder) if image.class_name != "BACKGROUND_Google"]
    if not found:
        raise CannotStart(f"dataset caltech101: {folder} has no class folders; delete it to download it again")
    return split_files("caltech101", found, seed)


def _load_flowers102(data: Path, seed: int, download: bool) -> LabelledImages:
    folder = data / "flowers-102"
    with _needed("flowers102", folder, download):
        from scipy.io import loadmat
        from torchvision.datasets import Flowers102

        Flowers102(data, download=download)
        # The three splits of the set are pooled, so only the list of all labels is used. Labels start at 1.
        targets = loadmat(folder / "imagelabels.mat")["labels"].ravel().astype(np.int64) - 1
        classes = tuple(Flowers102.classes)
        paths = [folder / "jpg" / f"image_{number:05d}.jpg" for number in range(1, len(targets) + 1)]
        marks = tuple(mark_of(path) for path in paths)
    indexed, queries = split_pool(targets, seed)
    return LabelledImages(
        name="flowers102",
        classes=classes,
        labels=one_hot(targets, len(classes)),
        keys=tuple(path.name for path in paths),
        indexed=indexed,
        queries=queries,
        read=lambda row: paths[row].read_bytes(),
        marks=marks,
    )


def _load_coco2017(data: Path, seed: int, download: bool) -> LabelledImages:
    folder = data / "coco2017"
    for part in coco.PARTS:
        if not (folder / part).is_dir():
            with _needed("coco2017", folder / part, download):
                if not download:
                    raise FileNotFoundError("there is no such folder")
                coco.fetch(part, folder)
    return coco.coco_images(folder)


@contextlib.contextmanager
def _needed(name: str, folder: Path, download: bool) -> Iterator[None]:
    """Turns errors in fetching and opening a set into CannotStart."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "torchvision").partition(".")[0]
        raise CannotStart(f"dataset {name}: needs the package {package}; pip install {package}") from None
    except _FETCH_ERRORS as error:
        remedy = "delete that folder and connect this machine to the network" if download else "allow downloads"
        raise CannotStart(
            f"dataset {name}: incomplete in {folder} and was not downloaded ({reason(error)});"
            f" {remedy}, or copy the set there"
        ) from None


_NAMED: Mapping[str, Callable[[Path, int, bool], LabelledImages]] = {
    "cifar10": _load_cifar10,
    "caltech101": _load_caltech101,
    "flowers102": _load_flowers102,
    "coco2017": _load_coco2017,
}
