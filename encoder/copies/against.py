"""Owns checking files against the stored pictures that are near to them, in parallel processes."""

from __future__ import annotations

import concurrent.futures
import io
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from joblib import cpu_count
from more_itertools import chunked
from threadpoolctl import threadpool_limits

from encoder.copies import checks
from encoder.copies.checking import TASKS_PER_PROCESS, in_parallel
from encoder.copies.pictures import picture_of
from encoder.ingest.images import read
from encoder.thumbnails import thumbnail
from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.checked import COPY, DIFFERENT, UNKNOWN
from lookalike.jobs.dedup.join import Report
from lookalike.server.config import LimitsConfig

# A response with the records near to so many files fits into a message, whatever their attributes and thumbnails.
_FILES_PER_TASK = 16

# A stored picture: its thumbnail and the URL of its file.
_Stored = tuple[bytes, str]


def check_files(
    client: Client,
    collection: str,
    files: Sequence[Path],
    keys: Sequence[Sequence[str]],
    any_orientation: bool = False,
    report: Report = lambda files: None,
) -> list[list[int]]:
    """Tells which records are copies of each file, from their thumbnails, or from their files if they have none.

    Args:
        client: A client of the cluster.
        collection: The collection's name.
        files: Image files.
        keys: The keys of the records to compare with each file; at most 16 for each.
        any_orientation: Whether turned and mirrored pictures count as copies.
        report: Called with the number of files done so far.

    Returns:
        COPY, DIFFERENT, or UNKNOWN if a picture cannot be read, for each key of each file.
    """
    verdicts: list[list[int]] = []
    # Threads of gRPC do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        cpu_count(), context, initializer=threadpool_limits, initargs=(1,)
    ) as pool:
        tasks = _tasks(client, collection, list(zip(files, keys, strict=True)), any_orientation)
        for found in in_parallel(pool, _check, tasks, cpu_count() * TASKS_PER_PROCESS):
            verdicts += found
            report(len(verdicts))
    return verdicts


def _tasks(
    client: Client, collection: str, wanted: Sequence[tuple[Path, Sequence[str]]], any_orientation: bool
) -> Iterator[tuple[list[tuple[Path, Sequence[str]]], Mapping[str, _Stored], bool]]:
    for part in chunked(wanted, _FILES_PER_TASK):
        keys = sorted({key for _, near in part for key in near})
        found = client.get(keys, collection=collection, include_thumbnails=True) if keys else []
        yield part, {record.key: picture_of(record) for record in found}, any_orientation


def _check(
    wanted: Sequence[tuple[Path, Sequence[str]]], stored: Mapping[str, _Stored], any_orientation: bool
) -> list[list[int]]:
    described = {key: _details(*picture) for key, picture in stored.items()}
    verdicts = []
    for file, keys in wanted:
        details = _details(b"", str(file)) if keys else None
        verdicts.append([_verdict(details, described.get(key), any_orientation) for key in keys])
    return verdicts


def _details(picture: bytes, url: str) -> checks.Details | None:
    try:
        return checks.describe_file(picture or thumbnail(io.BytesIO(read(url, LimitsConfig().max_image_bytes))))
    except Exception:  # decoders and file systems raise many kinds of errors; the pair counts as unchecked
        return None


def _verdict(file: checks.Details | None, stored: checks.Details | None, any_orientation: bool) -> int:
    if file is None or stored is None:
        return UNKNOWN
    return COPY if checks.is_copy(file, stored, any_orientation) else DIFFERENT
