"""Owns checking candidate pairs in parallel processes. The details of the pictures lie in one temporary file, in
rows of equal size, which the processes fill and read: memory does not grow with the collection."""

from __future__ import annotations

import collections
import concurrent.futures
import io
import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import cpu_count
from more_itertools import chunked
from threadpoolctl import threadpool_limits

from encoder.copies import checks
from encoder.copies.pictures import picture_of
from encoder.ingest.images import read
from encoder.thumbnails import thumbnail
from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.checked import COPY, DIFFERENT, UNKNOWN
from lookalike.jobs.dedup.groups import Snapshot
from lookalike.jobs.dedup.join import Report
from lookalike.jobs.dedup.roots import Numbers
from lookalike.model.records import Collection
from lookalike.server.config import LimitsConfig

# A response with this many records fits into a message, whatever their attributes and thumbnails.
_KEYS_PER_CALL = 300
_PAIRS_PER_TASK = 2_000
TASKS_PER_PROCESS = 3
_DESCRIBING = 0.7

_ROW = np.dtype(
    [
        ("is_known", np.bool_),
        ("features", np.uint16),
        ("size", np.uint8, 2),
        ("whole", np.uint8, (checks.WHOLE_SIDE, checks.WHOLE_SIDE)),
        ("small", np.uint8, checks.SMALL_SIDE**2),
        ("points", np.float32, (checks.MAX_FEATURES, 2)),
        ("descriptors", np.uint8, (checks.MAX_FEATURES, checks.DESCRIPTOR_BYTES)),
    ]
)
Verdicts = npt.NDArray[np.uint8]


def check_pairs(
    client: Client,
    collection: Collection,
    snapshot: Snapshot,
    left: Numbers,
    right: Numbers,
    any_orientation: bool = False,
    report: Report = lambda pairs: None,
    processes: int | None = None,
) -> Verdicts:
    """Tells which pairs of records are copies, from their thumbnails, or from their files if they have none.

    Args:
        client: A client of the cluster.
        collection: The collection.
        snapshot: Its records.
        left: Rows of the snapshot, int64 (pairs,).
        right: Rows of the snapshot, int64 (pairs,).
        any_orientation: Whether turned and mirrored pictures count as copies.
        report: Called with the share of the work done so far, as a number of pairs.
        processes: How many processes work; by default, one per processor.

    Returns:
        uint8 (pairs,): COPY, DIFFERENT, or UNKNOWN if a picture of the pair cannot be read.
    """
    verdicts = np.zeros(len(left), np.uint8)
    if not len(left):
        return verdicts
    rows, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    pairs = places.reshape(2, -1)
    with tempfile.TemporaryDirectory(prefix="lookalike-dedup-") as folder:
        file = Path(folder, "details")
        with file.open("wb") as empty:
            empty.truncate(len(rows) * _ROW.itemsize)
        workers = processes or cpu_count()
        # Threads of gRPC do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (str(file),)) as pool:
            limit = workers * TASKS_PER_PROCESS
            keys = [snapshot.keys[row] for row in rows.tolist()]
            described = 0
            for count in in_parallel(pool, _describe, _pictures(client, collection.name, keys), limit):
                described += count
                # Finding the details of the pictures is most of the work.
                report(int(_DESCRIBING * len(left) * described / len(keys)))
            starts = range(0, len(left), _PAIRS_PER_TASK)
            tasks = ((start, pairs[:, start : start + _PAIRS_PER_TASK], any_orientation) for start in starts)
            for start, found in in_parallel(pool, _compare, tasks, limit):
                end = start + len(found)
                verdicts[start:end] = found
                report(int(_DESCRIBING * len(left) + (1 - _DESCRIBING) * end))
    return verdicts


def _pictures(
    client: Client, collection: str, keys: Sequence[str]
) -> Iterator[tuple[int, list[tuple[int, bytes, str]]]]:
    """The thumbnails, or the files' URLs, of the records with these keys, with the keys' places."""
    for numbered in chunked(enumerate(keys), _KEYS_PER_CALL):
        place_of = {key: place for place, key in numbered}
        found = client.get(list(place_of), collection=collection, include_thumbnails=True)
        yield len(numbered), [(place_of[record.key], *picture_of(record)) for record in found]


def in_parallel(
    pool: concurrent.futures.Executor, function: Callable[..., Any], tasks: Iterable[Any], limit: int
) -> Iterator[Any]:
    """Yields results in the order of the tasks. At most `limit` tasks are taken in advance."""
    waiting: collections.deque[concurrent.futures.Future[Any]] = collections.deque()
    for task in tasks:
        waiting.append(pool.submit(function, *task))
        if len(waiting) >= limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


_rows: npt.NDArray[Any] = np.empty(0, _ROW)


def _start(file: str) -> None:
    global _rows
    _rows = np.memmap(file, _ROW, "r+")
    # The processes use all processors; more threads would only wait for each other.
    threadpool_limits(1)


def _describe(count: int, pictures: Sequence[tuple[int, bytes, str]]) -> int:
    """Stores the details of pictures. One that cannot be read stays unknown. Returns `count`."""
    limit = LimitsConfig().max_image_bytes
    for place, stored, url in pictures:
        try:
            _put(place, checks.describe_file(stored or thumbnail(io.BytesIO(read(url, limit)))))
        except Exception:  # decoders and file systems raise many kinds of errors; the pair counts as unchecked
            continue
    return count


def _put(place: int, details: checks.Details) -> None:
    row = _rows[place]
    count = len(details.points)
    row["features"], row["size"], row["whole"] = count, details.small.shape, details.whole
    row["small"][: details.small.size] = details.small.ravel()
    row["points"][:count], row["descriptors"][:count] = details.points, details.descriptors
    row["is_known"] = True


def _get(place: int) -> checks.Details | None:
    row = _rows[place]
    if not row["is_known"]:
        return None
    count = int(row["features"])
    height, width = row["size"].tolist()
    small = np.array(row["small"][: height * width]).reshape(height, width)
    return checks.Details(
        np.array(row["whole"]), small, np.array(row["points"][:count]), np.array(row["descriptors"][:count])
    )


def _compare(start: int, pairs: Numbers, any_orientation: bool) -> tuple[int, Verdicts]:
    return start, np.array([_verdict(left, right, any_orientation) for left, right in pairs.T.tolist()], np.uint8)


def _verdict(left: int, right: int, any_orientation: bool) -> int:
    first, second = _get(left), _get(right)
    if first is None or second is None:
        return UNKNOWN
    return COPY if checks.is_copy(first, second, any_orientation) else DIFFERENT
