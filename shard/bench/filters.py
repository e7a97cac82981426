"""Owns the benchmark of searches with a filter, at a filter's first use and when it is repeated, through a shard's
store."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lookalike.cluster.scan import ScanGroup
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.bench.timing import Figure, best_seconds, once_seconds
from shard.engine import Engine
from shard.store import Store

BITS = 256
ROWS = 1_000_000
_BATCH = 20_000


def filtered(seconds: float, rows: int = ROWS) -> Iterator[Figure]:
    """Compares a search with a filter and the same search without it. The filter is on an indexed attribute, and
    keeps 1 % of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.sqlite"
        space = CodeSpace(BITS)
        Store.create(path, space, Indexing(attributes=("label",)))
        engine = Engine(Store(path))
        for start in range(0, rows, _BATCH):
            engine.write([_record(number) for number in range(start, min(rows, start + _BATCH))])
        query = np.random.default_rng(2).integers(0, 256, (1, BITS // 8), dtype=np.uint8)

        def search(label: str | None) -> int:
            condition = None if label is None else filters.Equals("label", label)
            return len(engine.scan(ScanGroup("c", space.fingerprint, query, 10, None, condition)).hits)

        search(None)
        first = min(once_seconds(functools.partial(search, f"l{label}")) for label in range(5))
        best = best_seconds({"own": lambda: search("l7"), "none": lambda: search(None)}, seconds)
        yield _figure("filter that keeps 1 %, first", rows, first, best["none"])
        yield _figure("filter that keeps 1 %, repeated", rows, best["own"], best["none"])
        engine.close()


def _record(number: int) -> VersionedRecord:
    code = np.random.default_rng(number).bytes(BITS // 8)
    return VersionedRecord(f"k{number}", code, f'{{"label": "l{number * 7919 % 100}"}}', 1)


def _figure(what: str, rows: int, seconds: float, plain: float) -> Figure:
    return Figure(
        what, BITS, rows, 10, 1, 1, seconds * 1e3, rows * BITS / 8 / seconds / 1e9, ratio=plain / seconds,
        beside="no filter",
    )  # fmt: skip
