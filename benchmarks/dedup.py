"""Time of `lookalike dedup` with its two ways to find near codes: comparisons in the job, and range searches in a
cluster of two shards. One in ten codes has another within DISTANCE bits. Both must find the same groups."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from lookalike import Client, Collection
from lookalike.jobs.dedup import join
from lookalike.jobs.dedup.groups import Group, Snapshot, find_groups, read_snapshot
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor

ROWS = 100_000
BITS = 256
DISTANCE = 4
LARGE_DISTANCE = 24


def measure(rows: int) -> Iterator[dict[str, Any]]:
    """Yields the seconds to read the records, then those of both ways for a small and a large distance."""
    codes = planted(rows)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ephemeral_config(folder, 2)
        supervisor = Supervisor(config, folder, lambda line: print(line, file=sys.stderr))
        try:
            supervisor.launch()
            supervisor.wait_ready()
            with Client(config.coordinator.listen, timeout=120) as client:
                client.create_collection("c", bits=BITS)
                keys = [f"photos/{row % 1_000:03d}/{row:08d}.jpg" for row in range(rows)]
                client.ingest_arrays(keys, codes, collection="c")
                yield from _both(client, client.get_collection("c"))
        finally:
            supervisor.stop()


def planted(rows: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random codes, uint8 (rows, BITS / 8). One in ten is near another: half of these are copies of the other
    half, with at most DISTANCE bits inverted."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (rows, BITS // 8), np.uint8)
    each = rows // 20
    copies = codes[each : 2 * each].copy()
    for _ in range(DISTANCE):
        bits = rng.integers(0, BITS, each)
        copies[np.arange(each), bits // 8] ^= (1 << bits % 8).astype(np.uint8)
    codes[:each] = copies
    return rng.permutation(codes)


def _both(client: Client, collection: Collection) -> Iterator[dict[str, Any]]:
    started = time.perf_counter()
    snapshot = read_snapshot(client, collection, 60)
    rows = len(snapshot.keys)
    yield {"figure": "read", "rows": rows, "seconds": _since(started)}
    for distance in (DISTANCE, LARGE_DISTANCE):
        compared, seconds = _timed(client, snapshot, distance, 10 * join.CANDIDATES_PER_CODE)
        searched, search_seconds = _timed(client, snapshot, distance, -1)
        assert compared == searched
        assert len(compared) >= rows // 25
        yield {
            "figure": f"groups within {distance} bits",
            "groups": len(compared),
            "comparisons_seconds": seconds,
            "range_searches_seconds": search_seconds,
            "ratio": round(search_seconds / seconds, 1),
        }


def _timed(client: Client, snapshot: Snapshot, distance: int, budget: int) -> tuple[list[Group], float]:
    """Returns the groups and the seconds, with a budget of candidates per code that selects the way."""
    started = time.perf_counter()
    with mock.patch.object(join, "CANDIDATES_PER_CODE", budget):
        groups = find_groups(client, "c", snapshot, distance)
    return groups, _since(started)


def _since(started: float) -> float:
    return round(time.perf_counter() - started, 2)
