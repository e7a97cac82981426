"""Owns the definition of a labelled image set, and its split into images to index and query images.

The other modules of this package find and check the images. The same seed gives the same split on every
machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Vectors:
    """What a table holds instead of images.

    Attributes:
        features: float32 (n, width), with NaN in a row that cannot be read; (n, 0) without features.
        codes: Packed codes, uint8 (n, bits/8); None without codes.
        code_is_valid: Whether each row has a code, bool (n,); None without codes.
        feature_column: The name of the column of features; "" without features.
        code_column: The name of the column of codes; "" without codes.
        remarks: What was guessed of the columns, as sentences for the user.
    """

    features: NDArray[np.float32]
    codes: NDArray[np.uint8] | None
    code_is_valid: NDArray[np.bool_] | None
    feature_column: str
    code_column: str
    remarks: Sequence[str] = ()

    def take(self, rows: Rows) -> Vectors:
        """The vectors of some rows."""
        codes = None if self.codes is None else self.codes[rows]
        valid = None if self.code_is_valid is None else self.code_is_valid[rows]
        return dataclasses.replace(self, features=self.features[rows], codes=codes, code_is_valid=valid)


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledImages:
    """n images with their classes. Some are indexed, others are queries, the rest is unused."""

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.bool_]  # (n, classes); a single-label set has one True per row
    keys: tuple[str, ...]  # n unique stable names
    indexed: Rows  # ascending rows
    queries: Rows  # ascending rows, none of them indexed
    read: Callable[[int], bytes]  # row -> an image file's bytes
    marks: tuple[str, ...] = ()  # for each image, its file's size and time: a text that changes when the file does
    is_multi_label: bool = False  # whether an image can have several classes, or no class
    is_well_known: bool = False  # whether it is a set that `named` loads, or a part of one
    vectors: Vectors | None = None  # what a table has instead of images; then `read` raises ValueError

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the name and every image's key and mark. It is the same for every split of the same
        images and changes when an image is added, removed or changed."""
        return hashlib.sha256(json.dumps([self.name, self.keys, self.marks]).encode()).hexdigest()

    @property
    def lesson(self) -> str:
        """Hex SHA-256 over the training data: the images, their labels, and which are indexed."""
        rows = np.packbits(self.labels).tobytes() + self.indexed.astype("<i8").tobytes()
        return hashlib.sha256(self.digest.encode() + rows).hexdigest()


def shuffled_ranks(groups: Rows, seed: int) -> Rows:
    """Each row's position, from 0, in a random order of its group's rows. groups: (n,) each row's group. Uses
    NumPy's legacy random stream, which is the same with every version and on every machine."""
    random = np.random.RandomState(seed)
    ranks = np.zeros(len(groups), np.int64)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        ranks[random.permutation(rows)] = np.arange(len(rows))
    return ranks


def split_per_class(groups: Rows, seed: int) -> tuple[Rows, Rows]:
    """Returns (indexed, queries): 80 % and 20 % of each group's rows, rounded, at least one of each. A group of
    one row is indexed."""
    sizes = np.bincount(groups)[groups]
    count = np.clip((8 * sizes + 5) // 10, 1, np.maximum(1, sizes - 1))
    is_indexed = shuffled_ranks(groups, seed) >= sizes - count
    return np.flatnonzero(is_indexed), np.flatnonzero(~is_indexed)


def split_pool(groups: Rows, seed: int) -> tuple[Rows, Rows]:
    """Returns (indexed, queries): 80 % and 10 % of all rows and, up to rounding, of each group's rows."""
    n = len(groups)
    position = (shuffled_ranks(groups, seed) + 0.5) / np.bincount(groups)[groups]
    order = np.argsort(position, kind="stable")
    indexed = -(-8 * n // 10)
    return np.sort(order[:indexed]), np.sort(order[indexed : indexed + n // 10])


def limit_both_sides(images: LabelledImages, limit: int | None, seed: int) -> LabelledImages:
    """Keeps at most `limit` images, with the same proportion of indexed images to queries. The others, and unused
    images, are removed."""
    total = len(images.indexed) + len(images.queries)
    if limit is None or limit >= total:
        return images
    count = max(1, limit * len(images.queries) // total)
    groups = groups_of(images.labels)
    queries = images.queries[take_evenly(groups[images.queries], count, seed)]
    # Take images of the queries' classes first: if the limit is below the number of classes, queries find matches.
    last = ~np.isin(groups, groups[queries]) * (groups.max(initial=0) + 1)
    indexed = images.indexed[take_evenly((groups + last)[images.indexed], limit - count, seed)]
    rows = np.sort(np.concatenate([indexed, queries]))
    return dataclasses.replace(
        images,
        labels=images.labels[rows],
        keys=tuple(images.keys[row] for row in rows),
        indexed=np.searchsorted(rows, indexed),
        queries=np.searchsorted(rows, queries),
        read=lambda row: images.read(int(rows[row])),
        marks=tuple(images.marks[row] for row in rows) if images.marks else (),
        vectors=None if images.vectors is None else images.vectors.take(rows),
    )


def take_evenly(groups: Rows, count: int, seed: int) -> Rows:
    """Returns `count` random rows, ascending, taken from each group in turn."""
    ranks = shuffled_ranks(groups, seed)
    return np.sort(np.lexsort((groups, ranks))[:count])


def groups_of(labels: NDArray[np.bool_]) -> Rows:
    """Each image's first class. Images without a class form a separate group."""
    groups: Rows = np.where(labels.any(axis=1), labels.argmax(axis=1), labels.shape[1])
    return groups


def mark_of(path: Path) -> str:
    """A text that changes when the file does."""
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def one_hot(targets: Rows, classes: int) -> NDArray[np.bool_]:
    labels: NDArray[np.bool_] = targets[:, None] == np.arange(classes)
    return labels


def reason(error: Exception) -> str:
    """An error as one line of a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
