"""Counts, scrolls and facets over 1..4 shards, with writes between the pages, against a dict. The hash of keys is
made to collide, because real collisions are too expensive to find."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.cluster.listed import Listed, merge
from lookalike.cluster.select import CountOf, FacetCounter, FacetsOf, Kind, ListOf, Question, Selected
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS, VersionedRecord, attributes_text, slot_of
from shard.engine import Engine
from shard.store import Store
from tests.oracle import meets

SPACE = CodeSpace(64)
CODE = bytes(8)
KEYS = [f"k{i}" for i in range(24)]
values = st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from([1.0, 0.5, "1", "x", 2**70])
attributes = st.fixed_dictionaries(
    {}, optional={"a": values | st.lists(values, max_size=3), "b": st.integers(0, 2)}
)
conditions = st.none() | st.sampled_from(
    [
        filters.Equals("b", 1),
        filters.Not(filters.Equals("b", 1)),
        filters.Exists("a"),
        filters.In("a", (1, "x", True)),
        filters.And((filters.Range("b", gte=1), filters.Not(filters.Exists("a")))),
    ]
)
# Keys to write with these attributes, or to delete.
writes = st.dictionaries(st.sampled_from(KEYS), attributes | st.none(), max_size=6)


def colliding_id(key: str) -> int:
    """Eight ids, in four slots."""
    hashed = zlib.crc32(key.encode())
    return (hashed % 4 << 54) + hashed // 4 % 2


def order(key: str) -> tuple[int, str]:
    return colliding_id(key), key


class Shards:
    """The engines of a collection, a slot each in turn."""

    def __init__(self, folder: Path, count: int, indexed: tuple[str, ...]) -> None:
        self.engines = []
        for number in range(count):
            Store.create(folder / str(number), SPACE, Indexing(attributes=indexed))
            self.engines.append(Engine(Store(folder / str(number))))
        self.model: dict[str, dict[str, Any]] = {}
        self._version = 0

    def write(self, batch: dict[str, dict[str, Any] | None]) -> None:
        for key, given_attributes in batch.items():
            self._version += 1
            engine = self.engines[slot_of(colliding_id(key)) % len(self.engines)]
            if given_attributes is None:
                engine.write([VersionedRecord(key, None, "", self._version)])
                self.model.pop(key, None)
            else:
                engine.write([VersionedRecord(key, CODE, attributes_text(given_attributes), self._version)])
                self.model[key] = given_attributes

    def ask(self, condition: filters.Filter | None, kind: Kind) -> list[Selected]:
        slots = np.ones(SLOTS, np.bool_)
        return [engine.select(Question("c", condition, kind), slots) for engine in self.engines]

    def expected(self, condition: filters.Filter | None) -> dict[str, dict[str, Any]]:
        return {key: found for key, found in self.model.items() if condition is None or meets(found, condition)}

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


@contextlib.contextmanager
def shards(count: int, indexed: tuple[str, ...] = ()) -> Iterator[Shards]:
    with contextlib.ExitStack() as stack:
        for module in ("shard.staging", "shard.select", "shard.engine", "coordinator.selector"):
            stack.enter_context(mock.patch(f"{module}.record_id", colliding_id))
        opened = Shards(Path(stack.enter_context(tempfile.TemporaryDirectory())), count, indexed)
        stack.callback(opened.close)
        yield opened


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), writes, st.lists(writes, max_size=8), conditions, st.integers(1, 7))
def test_a_scroll_returns_every_unchanged_record_once_and_no_record_twice(
    count: int,
    first: dict[str, Any],
    between: list[dict[str, Any]],
    condition: filters.Filter | None,
    limit: int,
) -> None:
    with shards(count) as opened:
        opened.write(first)
        before = opened.expected(condition)
        changed = {key for batch in between for key in batch}
        waiting = list(between)
        after, listed = "", list[str]()
        while True:
            wanted = ListOf(after, limit, include_attributes=True)
            parts = opened.ask(condition, wanted)
            lists = [part.listed for part in parts if part.listed is not None]
            whole = merge(lists, [part.more for part in parts], limit, sys.maxsize)
            records, has_more = whole.listed.records(), whole.more
            assert len(records) <= limit
            assert all(attributes_text(opened.model[record.key]) == record.attributes for record in records)
            assert all(opened.expected(condition)[record.key] == opened.model[record.key] for record in records)
            listed += [record.key for record in records]
            if not has_more:
                break
            after = listed[-1]
            if waiting:
                opened.write(waiting.pop())
        assert listed == sorted(listed, key=lambda key: (colliding_id(key), key))
        assert len(listed) == len(set(listed))
        assert set(before) - changed <= set(listed)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), writes, writes, conditions, st.booleans())
def test_counts_and_facets_equal_those_of_a_dict(
    count: int,
    first: dict[str, Any],
    second: dict[str, Any],
    condition: filters.Filter | None,
    is_indexed: bool,
) -> None:
    with shards(count, ("a", "b") if is_indexed else ()) as opened:
        opened.write(first)
        # The selection of this filter is remembered and must follow the next writes.
        opened.ask(condition, CountOf())
        opened.write(second)
        expected = opened.expected(condition)
        assert sum(part.count for part in opened.ask(condition, CountOf())) == len(expected)
        counter = FacetCounter("a")
        for part in opened.ask(condition, FacetsOf("a")):
            for value, number in part.facets.items():
                counter.add(value, number)
        candidates = [False, True, -1, 0, 1, 2, 0.5, "1", "x", float(2**70)]
        wanted = {
            (type(value) is bool, value): sum(
                meets(found, filters.Equals("a", value)) for found in expected.values()
            )
            for value in candidates
        }
        shown = Counter({(kind == "truth", value): number for (kind, value), number in counter.counts.items()})
        assert shown == {value: number for value, number in wanted.items() if number}


def test_a_scroll_ends_at_the_limit_of_bytes_and_goes_on_after_it() -> None:
    record = VersionedRecord("", CODE, '{"t":"' + "x" * 100 + '"}', 1)
    records = [dataclasses.replace(record, key=f"k{i}") for i in range(5)]
    for max_bytes, count in ((250, 2), (1, 1), (10_000, 5)):
        found = merge([Listed.of(records)], [False], 5, max_bytes)
        assert (len(found.listed), found.more) == (count, count < 5)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 3)), max_size=10), min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.integers(1, 12),
)
def test_merged_lists_equal_those_of_plain_python(
    given_lists: list[list[tuple[str, int]]], more: list[bool], limit: int
) -> None:
    """Lists of several replicas: the same keys, in equal or different versions."""
    with mock.patch("lookalike.cluster.listed.record_id", colliding_id):
        lists = [
            sorted(dict(part).items(), key=lambda one: (colliding_id(one[0]), one[0])) for part in given_lists
        ]
        more = [has_more and bool(part) for has_more, part in zip(more, lists, strict=False)]
        columns = [
            Listed.of([VersionedRecord(key, CODE, key, version) for key, version in part]) for part in lists
        ]
        found = merge(columns, more, limit, sys.maxsize, copies=len(lists))
    ends = [
        (colliding_id(part[-1][0]), part[-1][0]) for part, has_more in zip(lists, more, strict=True) if has_more
    ]
    versions: dict[str, list[int]] = {}
    for key, version in (one for part in lists for one in part):
        versions.setdefault(key, []).append(version)
    keys = [key for key in sorted(versions, key=order) if not ends or order(key) <= min(ends)]
    shown = keys[:limit]
    assert found.listed.keys.strings() == found.listed.attributes.strings() == shown
    assert found.more == (bool(ends) or len(keys) > limit)
    assert found.listed.versions.tolist() == [versions[key][0] for key in shown]
    expected = [len(versions[key]) == len(lists) and len(set(versions[key])) == 1 for key in shown]
    assert found.agreed.tolist() == expected
    assert not shown or found.listed.last_key() == shown[-1]
