"""Owns the benchmark of pages, excluded keys and groups, through a shard's store, against the same search without
them."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from lookalike.cluster.scan import Place, ScanGroup
from lookalike.cluster.select import GroupsOf, MembersOf, Near, Question
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS
from shard.bench.filters import BITS, ROWS, filled
from shard.bench.timing import Figure, best_seconds
from shard.engine import Engine

_K = 10
_EXCLUDED = 1_000
_GROUP_SIZE = 3
_ROUNDS = 10


def paged(seconds: float, rows: int = ROWS) -> Iterator[Figure]:
    """Measures a page after each tenth of the rows, excluded keys, and groups of an attribute with 100 values."""
    with tempfile.TemporaryDirectory() as folder:
        engine = filled(Path(folder) / "records.sqlite", Indexing(), rows)
        query = np.random.default_rng(2).integers(0, 256, (1, BITS // 8), dtype=np.uint8)
        plain = ScanGroup("c", CodeSpace(BITS).fingerprint, query, _K)
        calls: dict[str, Callable[[], object]] = {"none": functools.partial(engine.scan, plain)}
        for share in (0.1, 0.5, 0.9):
            after = _place(engine, query, round(rows * share))
            calls[f"page after {share:.0%} of the rows"] = functools.partial(
                engine.scan, ScanGroup("c", plain.fingerprint, query, _K, after=after)
            )
        without = tuple(engine.scan(ScanGroup("c", plain.fingerprint, query, _EXCLUDED)).hits.keys.tolist())
        calls[f"{_EXCLUDED:,} keys excluded"] = functools.partial(
            engine.scan, ScanGroup("c", plain.fingerprint, query, _K, exclude_keys=without)
        )
        best = best_seconds(calls, seconds)
        for name in list(calls)[1:]:
            yield _figure(name, rows, best[name], best["none"])
        near = Near("label", plain.fingerprint, query.tobytes())
        grouped = functools.partial(_groups, engine, near)
        first = _processor_seconds(grouped)
        again = min(_processor_seconds(grouped) for _ in range(_ROUNDS))
        yield _figure(f"{_K} groups of {_GROUP_SIZE}, first, processor time", rows, first, best["none"])
        yield _figure(f"{_K} groups of {_GROUP_SIZE}, repeated, processor time", rows, again, best["none"])
        engine.close()


def _place(engine: Engine, query: np.ndarray, rank: int) -> Place:
    """The place of the row with this rank."""
    after = None
    while rank > 0:
        group = ScanGroup("c", CodeSpace(BITS).fingerprint, query, min(rank, 10_000), after=after)
        hits = engine.scan(group).hits
        after = Place(float(hits.distances[-1]), str(hits.keys[-1]))
        rank -= len(hits)
    assert after is not None
    return after


def _groups(engine: Engine, near: Near) -> object:
    slots = np.ones(SLOTS, np.bool_)
    groups = engine.select(Question("c", None, GroupsOf(near, _K + 1)), slots).groups
    values = tuple(group.value for group in groups[:_K])
    return engine.select(Question("c", None, MembersOf(near, values, _GROUP_SIZE, True)), slots)


def _processor_seconds(call: Callable[[], object]) -> float:
    """The processor time of a call in this thread. It takes too long to run undisturbed on a busy machine."""
    started = time.thread_time()
    call()
    return time.thread_time() - started


def _figure(what: str, rows: int, seconds: float, plain: float) -> Figure:
    return Figure(
        what, BITS, rows, _K, 1, 1, seconds * 1e3, rows * BITS / 8 / seconds / 1e9, ratio=plain / seconds,
        beside="a search without",
    )  # fmt: skip
