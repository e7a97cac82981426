"""Owns the pictures of a measurement: originals, copies of some of them by every edit, and what is compared of
each: features, perceptual hashes and details. The pictures themselves are not kept, so that memory does not grow
with their size."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import io
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from more_itertools import constrained_batches

from encoder.copies import checks
from encoder.copies.checking import in_parallel
from encoder.copies.edits import EDITS, edited, saved
from encoder.copies.pictures import opened
from encoder.ingest.images import read
from encoder.thumbnails import thumbnail
from lab.duplicates import hashes
from lookalike.model.errors import InvalidRequest
from lookalike.transport.rpc import MAX_IMAGE_BYTES

if TYPE_CHECKING:
    from encoder.features import FeatureModel

_BATCH_FILES = 64
_TASKS_PER_PROCESS = 4

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What a worker process makes of one picture: its file, and its hashes and details."""

    file: bytes
    hashes: Mapping[str, hashes.Hash]
    details: checks.Details


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Described:
    """What is compared of n pictures.

    Attributes:
        features: float32 (n, width).
        hashes: By name, uint8 (n, bytes).
        is_comparable: Whether each hash may be compared, by name, bool (n,).
        details: For the second opinion.
    """

    features: Floats
    hashes: Mapping[str, npt.NDArray[np.uint8]]
    is_comparable: Mapping[str, Flags]
    details: Sequence[checks.Details]

    @classmethod
    def join(cls, features: Floats, seen: Sequence[Seen]) -> Described:
        names = seen[0].hashes
        return cls(
            features,
            {name: np.array([one.hashes[name][0] for one in seen]) for name in names},
            {name: np.array([one.hashes[name][1] for one in seen], np.bool_) for name in names},
            [one.details for one in seen],
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Originals, and copies of some of them.

    Attributes:
        keys: The keys of the originals.
        originals: What is compared of the originals.
        copies: What is compared of the copies.
        origin: The original of each copy, int64 (copies,).
        edit: The number of each copy's edit, int64 (copies,).
        group: Equal for originals that are copies of each other, int64 (originals,).
        unreadable: How many pictures could not be read, and are left out.
    """

    keys: Sequence[str]
    originals: Described
    copies: Described
    origin: Numbers
    edit: Numbers
    group: Numbers
    unreadable: int

    @property
    def false_pairs(self) -> int:
        """How many pairs of a copy and an original show different pictures."""
        sizes = dict(zip(*np.unique(self.group, return_counts=True), strict=True))
        return sum(len(self.group) - int(sizes[group]) for group in self.group[self.origin].tolist())

    def is_false(self, rows: slice) -> Flags:
        """Which pairs of these copies and all originals show different pictures, bool (rows, originals)."""
        different: Flags = self.group[self.origin[rows]][:, None] != self.group
        return different


def chosen_rows(count: int, originals: int | None) -> list[int]:
    """The rows of the pictures to edit, at most `originals` of `count`, chosen at random, in ascending order."""
    found: list[int] = np.sort(np.random.default_rng(0).permutation(count)[:originals]).tolist()
    return found


def describe(
    keys: Sequence[str],
    urls: Sequence[str],
    originals: int | None,
    network: FeatureModel,
    report: Callable[[int], None] = lambda pictures: None,
) -> Pictures:
    """Reads pictures, edits some of them, and computes what is compared. Every original is its own group.

    Args:
        keys: The pictures' keys.
        urls: Where they are.
        originals: How many of them are edited; None for all.
        network: Computes features.
        report: Called with the number of pictures done since the last call.

    Raises:
        InvalidRequest: If fewer than two pictures can be read, or none of those to be edited.
    """
    is_chosen = np.zeros(len(urls), np.bool_)
    is_chosen[chosen_rows(len(urls), originals)] = True
    kept: list[str] = []
    sides: tuple[list[Floats], list[Floats]] = ([], [])
    seen: tuple[list[Seen], list[Seen]] = ([], [])
    origin: list[int] = []
    for rows, found in _encoded(urls, is_chosen, network):
        report(len(rows))
        for row, (pictures, features) in zip(rows, found, strict=True):
            if not pictures:
                continue
            # The first is the original, the others are its copies.
            for side, part in enumerate((slice(0, 1), slice(1, None))):
                sides[side].append(features[part])
                seen[side].extend(_without_file(one) for one in pictures[part])
            origin += [len(kept)] * (len(pictures) - 1)
            kept.append(keys[row])
    if len(kept) < 2 or not origin:
        raise InvalidRequest(
            f"dataset: of {len(urls):,} pictures {len(kept):,} can be read, and {len(origin) // len(EDITS):,} of"
            " those to edit; name a folder with more pictures"
        )
    described = [Described.join(np.concatenate(parts), ones) for parts, ones in zip(sides, seen, strict=True)]
    return Pictures(
        kept, described[0], described[1], np.array(origin, np.int64),
        np.tile(np.arange(len(EDITS)), len(origin) // len(EDITS)), np.arange(len(kept)), len(urls) - len(kept),
    )  # fmt: skip


def _without_file(seen: Seen) -> Seen:
    return dataclasses.replace(seen, file=b"")


def _encoded(
    urls: Sequence[str], is_chosen: Flags, network: FeatureModel
) -> Iterator[tuple[Sequence[int], list[tuple[Sequence[Seen], Floats]]]]:
    """Yields rows, and for each row the picture and its copies, with their features, float32 (pictures, width);
    none for a picture that cannot be read."""
    from encoder.features import stacked

    workers = cpu_count()
    # Threads of torch do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start) as pool:
        tasks = ((row, url, bool(is_chosen[row])) for row, url in enumerate(urls))
        seen = in_parallel(pool, see, tasks, workers * _TASKS_PER_PROCESS)
        for batch in constrained_batches(enumerate(seen), _BATCH_FILES, get_len=_files_of, strict=False):
            files = [one.file for _, pictures in batch for one in pictures]
            decoded = network.decode(files)
            is_readable = np.array([isinstance(item, np.ndarray) for item in decoded], np.bool_)
            features = np.zeros((len(files), network.width), np.float32)
            if (pixels := stacked(decoded)) is not None:
                features[is_readable] = network.features(pixels).cpu().numpy()
            found: list[tuple[Sequence[Seen], Floats]] = []
            start = 0
            for _, pictures in batch:
                part = slice(start, start + len(pictures))
                found.append((pictures if is_readable[part].all() else (), features[part]))
                start += len(pictures)
            yield [row for row, _ in batch], found


def _files_of(numbered: tuple[int, Sequence[Seen]]) -> int:
    return len(numbered[1])


def _start() -> None:
    import cv2
    from threadpoolctl import threadpool_limits

    # The processes use all processors; more threads would only wait for each other.
    cv2.setNumThreads(1)
    threadpool_limits(1)


def see(number: int, url: str, is_edited: bool) -> list[Seen]:
    """Reads a picture and, if it is to be edited, makes its copies. Empty if it cannot be read. number: the seed
    of its edits."""
    try:
        file = read(url, MAX_IMAGE_BYTES)
        picture = opened(file)
        copies = [saved(edited(edit, picture, number)) for edit in EDITS] if is_edited else []
        return [_seen(each) for each in (file, *copies)]
    except Exception:  # file systems and decoders raise many kinds of errors; the caller counts the picture
        return []


def _seen(file: bytes) -> Seen:
    picture = opened(file)
    made = {name: make(picture) for name, make in hashes.available().items()}
    return Seen(file, made, checks.describe_file(thumbnail(io.BytesIO(file))))
