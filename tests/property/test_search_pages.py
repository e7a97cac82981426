"""Pages of a search, excluded keys and groups over 1..4 shards, with writes between the pages, against a dict. The
hash of keys is made to collide, because real collisions are too expensive to find."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.grouped_search import in_order, nearest_groups
from lookalike.cluster.hits import HitTable, merge
from lookalike.cluster.scan import Place, ScanGroup, Scoring
from lookalike.cluster.select import GroupsOf, MembersOf, Near, Question, Selected
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS, VersionedRecord, attributes_text, slot_of
from shard.engine import Engine
from shard.store import Store
from tests import oracle
from tests.property.test_select_properties import colliding_id

SPACE = CodeSpace(16)
KEYS = [f"k{i}" for i in range(40)]
codes = st.sampled_from([bytes([a, b]) for a in (0, 1, 3) for b in (0, 7)])
labels = st.sampled_from([True, 0, 1, 1.0, 0.5, "1", "x", None, {"y": 1}])
attributes = st.fixed_dictionaries({}, optional={"a": labels | st.lists(labels, max_size=3)})
records = st.tuples(codes, attributes)
# Keys to write, or to delete.
writes = st.dictionaries(st.sampled_from(KEYS), records | st.none(), max_size=40)
excluded = st.lists(st.sampled_from([*KEYS, "never"]), max_size=12, unique=True).map(tuple)
WEIGHTS = np.array([[3, 0, 1, 9, 2, 2, 7, 1, 4, 4, 1, 0, 5, 6, 2, 1]], np.uint16)


class Shards:
    """The engines of a collection, and the records that they have."""

    def __init__(self, folder: Path, count: int) -> None:
        self.engines = []
        for number in range(count):
            Store.create(folder / str(number), SPACE, Indexing())
            self.engines.append(Engine(Store(folder / str(number))))
        self.model: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self._version = 0

    def write(self, batch: dict[str, tuple[bytes, dict[str, Any]] | None]) -> None:
        for key, record in batch.items():
            self._version += 1
            engine = self.engines[slot_of(colliding_id(key)) % len(self.engines)]
            if record is None:
                engine.write([VersionedRecord(key, None, "", self._version)])
                self.model.pop(key, None)
            else:
                engine.write([VersionedRecord(key, record[0], attributes_text(record[1]), self._version)])
                self.model[key] = record

    def scan(self, group: ScanGroup) -> HitTable:
        parts = [engine.scan(group, slots=np.ones(SLOTS, np.bool_)).hits for engine in self.engines]
        return merge(parts, 1, group.k, group.scoring is Scoring.ASYMMETRIC)

    def ask(self, kind: GroupsOf | MembersOf) -> list[Selected]:
        return [engine.select(Question("c", None, kind), np.ones(SLOTS, np.bool_)) for engine in self.engines]

    def expected(self, query: bytes, without: tuple[str, ...]) -> list[tuple[int, int, str]]:
        """All (distance, id, key), in order."""
        return sorted(
            ((int.from_bytes(code, "big") ^ int.from_bytes(query, "big")).bit_count(), colliding_id(key), key)
            for key, (code, _) in self.model.items()
            if key not in without
        )


@contextlib.contextmanager
def shards(count: int) -> Iterator[Shards]:
    with contextlib.ExitStack() as stack:
        for module in ("shard.staging", "shard.engine", "shard.scanner", "shard.groups"):
            stack.enter_context(mock.patch(f"{module}.record_id", colliding_id))
        opened = Shards(Path(stack.enter_context(tempfile.TemporaryDirectory())), count)
        for engine in opened.engines:
            stack.callback(engine.close)
        yield opened


def group_of(query: bytes, k: int, without: tuple[str, ...], scoring: Scoring) -> ScanGroup:
    return ScanGroup(
        "c", SPACE.fingerprint, np.frombuffer(query, np.uint8).reshape(1, 2), k, scoring=scoring,
        inputs=WEIGHTS if scoring is Scoring.ASYMMETRIC else None, exclude_keys=without,
    )  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 4),
    writes,
    st.lists(writes, max_size=4),
    codes,
    st.integers(1, 9),
    excluded,
    st.sampled_from([Scoring.HAMMING, Scoring.ASYMMETRIC]),
)
def test_pages_return_every_unchanged_record_once_and_no_code_of_a_record_twice(
    count: int,
    first: dict[str, Any],
    between: list[dict[str, Any]],
    query: bytes,
    k: int,
    without: tuple[str, ...],
    scoring: Scoring,
) -> None:
    with shards(count) as opened:
        opened.write(first)
        before = {key for _, _, key in opened.expected(query, without)}
        changed = {key for batch in between for key in batch}
        waiting = list(between)
        whole = group_of(query, k, without, scoring)
        returned, places = list[tuple[str, bytes]](), list[tuple[float, int, str]]()
        while len(page := opened.scan(whole)):
            values = page.ranks if scoring is Scoring.ASYMMETRIC else page.distances
            places += list(zip(values.tolist(), page.ids.tolist(), page.keys.tolist(), strict=True))
            returned += [(key, opened.model[key][0]) for key in page.keys.tolist()]
            whole = dataclasses.replace(whole, after=Place(places[-1][0], places[-1][2]))
            if waiting:
                opened.write(waiting.pop())
        assert places == sorted(set(places))
        assert len(set(returned)) == len(returned)
        assert {key for key, _ in returned}.isdisjoint(without)
        assert before - changed <= {key for key, _ in returned}
        if not between and scoring is Scoring.HAMMING:
            assert places == opened.expected(query, without)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 4), writes, codes, st.integers(1, 9), excluded, st.none() | st.integers(0, 4))
def test_there_are_k_others_instead_of_excluded_records(
    count: int, first: dict[str, Any], query: bytes, k: int, without: tuple[str, ...], max_distance: int | None
) -> None:
    with shards(count) as opened:
        opened.write(first)
        group = dataclasses.replace(group_of(query, k, without, Scoring.HAMMING), max_distance=max_distance)
        hits = opened.scan(group)
        expected = [
            place for place in opened.expected(query, without) if max_distance is None or place[0] <= max_distance
        ]
        found = zip(hits.distances.tolist(), hits.ids.tolist(), hits.keys.tolist(), strict=True)
        assert list(found) == expected[:k]


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 4), writes, writes, codes, st.integers(1, 5), st.integers(1, 4), excluded)
def test_groups_equal_those_of_a_dict(
    count: int,
    first: dict[str, Any],
    second: dict[str, Any],
    query: bytes,
    k: int,
    size: int,
    without: tuple[str, ...],
) -> None:
    with shards(count) as opened:
        opened.write(first)
        near = Near("a", SPACE.fingerprint, query, None, without)
        # The attribute's values are remembered and must follow the next writes.
        opened.ask(GroupsOf(near, k))
        opened.write(second)
        places = nearest_groups([group for part in opened.ask(GroupsOf(near, k)) for group in part.groups])
        values = [place.value for place in places[:k]]
        found = []
        if values:
            parts = opened.ask(MembersOf(near, tuple(values), size))
            tables = [part.hits for part in parts if part.hits is not None]
            ordered, hits = in_order(values, merge(tables, len(values), size))
            found = [
                (
                    type(value) is bool,
                    value,
                    list(zip(members.distances.tolist(), members.keys.tolist(), strict=True)),
                )
                for (_, value), members in zip(ordered, hits.split([1] * len(ordered)), strict=True)
            ]
        kept = {key: record for key, record in opened.model.items() if key not in without}
        expected = oracle.nearest_groups(kept, query, "a", k, size, colliding_id)
        assert found == [(type(value) is bool, value, members) for value, members in expected]
