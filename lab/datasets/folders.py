"""Owns image sets in folders. A set is a folder with one sub-folder per class, or with two such folders, its
sides: train, and test or val.

`labelled` splits sets that have no sides. Keys are paths below the folder; images are ordered by key."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lab.datasets.labelled import (
    LabelledImages,
    groups_of,
    limit_both_sides,
    mark_of,
    one_hot,
    reason,
    split_per_class,
)
from lookalike.files.kinds import EXTENSIONS
from lookalike.model.errors import InvalidRequest


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file below a class folder."""

    key: str
    class_name: str
    path: Path


def load_folder(folder: Path, name: str, seed: int, limit: int | None) -> LabelledImages:
    """Loads the set in a folder, at most `limit` images. Raises InvalidRequest if it has no usable classes, or
    cannot be read."""
    try:
        return _load_classes(_class_root(folder), name, seed, limit)
    except OSError as error:
        raise InvalidRequest(
            f"dataset: {folder} cannot be read ({reason(error)}); give this user permission to read it"
        ) from None


def _load_classes(folder: Path, name: str, seed: int, limit: int | None) -> LabelledImages:
    sides = {path.name for path in _folders(folder)}
    if sides == {"train", "val", "test"}:
        raise InvalidRequest(
            f"dataset: {folder} has train, val and test; only one can be the queries, so move val or test away"
        )
    if sides in ({"train", "test"}, {"train", "val"}):
        return limit_both_sides(_two_sided(folder, name), limit, seed)
    found = find_images(folder)
    if not _has_a_pair(found):
        raise InvalidRequest(
            f"dataset: {folder} has no class with two images; use one sub-folder per class, with image files"
        )
    # The limit is applied after the split, so that a query stays a query with any limit.
    return limit_both_sides(split_files(name, found, seed), limit, seed)


def _has_a_pair(found: Sequence[ImageFile]) -> bool:
    return len({image.class_name for image in found}) < len(found)


def split_files(name: str, found: Sequence[ImageFile], seed: int) -> LabelledImages:
    """Splits each class's images 80 to 20 into indexed images and queries."""
    images = _from_files(name, found)
    indexed, queries = split_per_class(groups_of(images.labels), seed)
    return dataclasses.replace(images, indexed=indexed, queries=queries)


def _two_sided(folder: Path, name: str) -> LabelledImages:
    """Loads a set with sides: images in train are indexed, the others are queries. Keys start with the side's
    name."""
    found = [
        dataclasses.replace(image, key=f"{side.name}/{image.key}")
        for side in _folders(folder)
        for image in find_images(side)
    ]
    is_indexed = np.array([image.key.startswith("train/") for image in found], bool)
    for side, count in (("train", is_indexed.sum()), ("test or val", (~is_indexed).sum())):
        if not count:
            raise InvalidRequest(
                f"dataset: {folder} has no images in class folders below {side}; use one sub-folder per class"
            )
    images = _from_files(name, found)
    return dataclasses.replace(images, indexed=np.flatnonzero(is_indexed), queries=np.flatnonzero(~is_indexed))


def _from_files(name: str, found: Sequence[ImageFile]) -> LabelledImages:
    classes, targets = np.unique([image.class_name for image in found], return_inverse=True)
    paths = [image.path for image in found]
    return LabelledImages(
        name=name,
        classes=tuple(classes.tolist()),
        labels=one_hot(targets, len(classes)),
        keys=tuple(image.key for image in found),
        indexed=np.zeros(0, np.int64),
        queries=np.zeros(0, np.int64),
        read=lambda row: paths[row].read_bytes(),
        marks=tuple(mark_of(path) for path in paths),
    )


def find_images(folder: Path) -> list[ImageFile]:
    """The image files at any depth below each class folder, ordered by key. A key is the path below `folder`."""
    found = [
        ImageFile(path.relative_to(folder).as_posix(), class_folder.name, path)
        for class_folder in _folders(folder)
        for path in _files(class_folder)
    ]
    for image in found:
        if not image.key.isprintable() or any("\ud800" <= mark <= "\udfff" for mark in image.key):
            raise InvalidRequest(
                f"dataset: the name {image.key!r} is not valid Unicode; rename that file or folder"
            )
    return sorted(found, key=lambda image: image.key)


def _files(folder: Path) -> Iterator[Path]:
    for parent, names, files in os.walk(folder, onerror=_raise):
        names[:] = [name for name in names if not _is_hidden(name)]
        for name in files:
            path = Path(parent, name)
            if path.suffix.lower() in EXTENSIONS and not _is_hidden(name) and path.is_file():
                yield path


def _raise(error: OSError) -> None:
    """An unreadable folder must not count as an empty one."""
    raise error


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _is_hidden(name: str) -> bool:
    # macOS adds __MACOSX to zip files, with a metadata file for every image.
    return name.startswith(".") or name == "__MACOSX"


def _class_root(folder: Path) -> Path:
    """The folder that contains the class folders: `folder`, or its only sub-folder if that contains them."""
    folders = _folders(folder)
    if len(folders) == 1 and _folders(folders[0]):
        return _class_root(folders[0])
    return folder
