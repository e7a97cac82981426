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
from lookalike.model.records import VersionedRecord, encode_attributes
from shard.bench.timing import Figure, best_seconds, once_seconds
from shard.engine import Engine
from shard.store import Store

BITS = 256
ROWS = 1_000_000
_BATCH = 20_000


def filtered(seconds: float, rows: int = ROWS) -> Iterator[Figure]:
    """Compares a search with a filter and the same search without it: filters on an attribute with an index and on
    one without, at their first use, and a repeated filter."""
    for indexed in (("label", "number"), ()):
        with tempfile.TemporaryDirectory() as folder:
            engine = filled(Path(folder) / "records.sqlite", Indexing(attributes=indexed), rows)
            search = functools.partial(_search, engine)
            search(None)
            best = best_seconds(
                {"own": functools.partial(search, _texts(0)), "none": functools.partial(search, None)}, seconds
            )
            how = "index" if indexed else "no index"
            for name, some in _KINDS:
                # Five filters, because a shard remembers each.
                first = min(once_seconds(functools.partial(search, some(i))) for i in range(1, 6))
                yield _figure(f"{name}, {how}, first", rows, first, best["none"])
            yield _figure(f"filter that keeps 1 %, {how}, repeated", rows, best["own"], best["none"])
            engine.close()


def filled(path: Path, indexing: Indexing, rows: int) -> Engine:
    Store.create(path, CodeSpace(BITS), indexing)
    engine = Engine(Store(path))
    for start in range(0, rows, _BATCH):
        engine.write([_record(number) for number in range(start, min(rows, start + _BATCH))])
    return engine


def _search(engine: Engine, condition: filters.Filter | None) -> int:
    query = np.random.default_rng(2).integers(0, 256, (1, BITS // 8), dtype=np.uint8)
    fingerprint = CodeSpace(BITS).fingerprint
    return len(engine.scan(ScanGroup("c", fingerprint, query, 10, None, condition)).hits)


def _texts(i: int) -> filters.Filter:
    return filters.Equals("label", f"l{i}")


def _numbers(i: int) -> filters.Filter:
    return filters.Equals("number", i)


def _ranges(i: int) -> filters.Filter:
    return filters.Range("number", gt=i + 0.5, lt=i + 1.5)


def _prefixes(i: int) -> filters.Filter:
    return filters.Prefix("label", f"l1{i}")


def _text_ranges(i: int) -> filters.Filter:
    return filters.Range("label", gte=f"l1{i}", lt=f"l1{i}~")


def _keys(i: int) -> filters.Filter:
    return filters.In(filters.KEY, tuple(f"k{number}" for number in range(i, i + filters.MAX_VALUES)))


_KINDS = (
    ("text filter that keeps 1 %", _texts),
    ("number filter that keeps 1 %", _numbers),
    ("range filter that keeps 1 %", _ranges),
    ("prefix filter that keeps 1 %", _prefixes),
    ("range of texts that keeps 1 %", _text_ranges),
    (f"filter of {filters.MAX_VALUES:,} keys", _keys),
)


def _record(number: int) -> VersionedRecord:
    code = np.random.default_rng(number).bytes(BITS // 8)
    attributes = {"label": f"l{number * 7919 % 100}", "number": number * 104_729 % 100}
    return VersionedRecord(f"k{number}", code, encode_attributes(attributes), 1)


def _figure(what: str, rows: int, seconds: float, plain: float) -> Figure:
    return Figure(
        what, BITS, rows, 10, 1, 1, seconds * 1e3, rows * BITS / 8 / seconds / 1e9, ratio=plain / seconds,
        beside="no filter",
    )  # fmt: skip
