"""Filters in SQL against the same filters in plain Python, on arbitrary attributes."""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike import wire
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.matching import matcher
from lookalike.model.records import VersionedRecord, attributes_text
from lookalike.model.times import text_of
from shard.kernel import RowIndex
from shard.store import Store
from tests.oracle import meets

EMPTY_INDEX = RowIndex(lambda: (np.zeros(0, np.uint64), np.zeros(0, np.uint32)))
fields = st.sampled_from(["a", "b", "a.b", "a.c", "naïve", "with space", "o'brien", "$x", "b[0]"])
fields_and_key = fields | st.just(filters.KEY)
texts = st.sampled_from(
    [
        "",
        "1",
        "true",
        "x'; DROP TABLE records; --",
        "é",
        "%",
        "ab",
        "a\\",
        'a"',
        "a\n",
        "\ud7ff",
        "\ue000",
        "\U0010ffff",
    ]
) | st.text('ab\\"é\U0010ffff', max_size=3)
times = st.datetimes(
    datetime.datetime(2026, 1, 1), datetime.datetime(2026, 1, 3), timezones=st.none() | st.just(datetime.UTC)
).map(text_of)
dates = st.dates(datetime.date(2026, 1, 1), datetime.date(2026, 1, 3)).map(text_of)
near = st.integers(-2, 2).flatmap(lambda step: st.sampled_from([2**53 + step, -(2**53) + step]))
integers = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2) | near
scalars = (
    texts
    | times
    | dates
    | st.one_of(st.none(), st.booleans(), integers, st.floats(-2, 2), st.just(1.0), near.map(float))
)
json_values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c", "naïve"]), inner, max_size=3)
    ),
    max_leaves=6,
)
documents = st.dictionaries(
    st.sampled_from(["a", "b", "naïve", "with space", "o'brien", "$x", "b[0]"]), json_values, max_size=4
)
numbers = st.none() | integers | st.floats(-2, 2) | near.map(float)
bounds = st.lists(numbers, min_size=4, max_size=4) | st.lists(
    st.none() | texts | times | dates, min_size=4, max_size=4
)
ranges = st.builds(lambda field, four: filters.Range(field, *four), fields_and_key, bounds).filter(
    lambda r: bool(r.bounds)
)
values = st.lists(scalars, min_size=1, max_size=4) | st.lists(scalars, min_size=9, max_size=20)
leaves = (
    st.builds(filters.Equals, fields_and_key, scalars)
    | st.builds(filters.In, fields_and_key, values.map(tuple))
    | st.builds(filters.Exists, fields_and_key)
    | st.builds(filters.Prefix, fields_and_key, texts | st.just("2026-01-01T1"))
    | ranges
)
conditions = st.recursive(
    leaves,
    lambda inner: (
        st.builds(filters.And, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(filters.Or, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(filters.Not, inner)
    ),
    max_leaves=5,
)


@settings(max_examples=300)
@given(
    st.dictionaries(texts.filter(bool) | times, documents, min_size=1, max_size=6),
    st.lists(conditions, min_size=1, max_size=4),
    st.lists(fields, max_size=3, unique=True),
)
def test_sql_agrees_with_python(
    described: dict[str, dict[str, Any]], wanted: list[filters.Filter], indexed: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.sqlite"
        Store.create(path, CodeSpace(16), Indexing(attributes=tuple(indexed)))
        store = Store(path)
        records = [VersionedRecord(key, b"\0\0", attributes_text(values), 1) for key, values in described.items()]
        with store.writing(records, EMPTY_INDEX):
            pass
        for condition in wanted:
            mask = store.matching(filters.check(condition), 0, len(records))
            assert mask is not None
            assert mask.tolist() == [meets(some, condition, key) for key, some in described.items()], condition
            assert mask.tolist() == [matcher(condition)(some, key) for key, some in described.items()], condition
        store.close()


@settings(max_examples=200)
@given(conditions)
def test_filter_round_trip_over_the_wire(condition: filters.Filter) -> None:
    message = wire.filter_to_wire(condition)
    assert wire.filter_from_wire(type(message).FromString(message.SerializeToString())) == condition


@pytest.mark.parametrize("number", [2**63, 2**64 + 1, -(2**63) - 1, 10**300, -(10**400)])
def test_numbers_beyond_64_bits_compare_alike(tmp_path: Path, number: int) -> None:
    Store.create(tmp_path / "s", CodeSpace(16), Indexing())
    store = Store(tmp_path / "s")
    with store.writing([VersionedRecord("k", b"\0\0", attributes_text({"a": number}), 1)], EMPTY_INDEX):
        pass
    for condition in (filters.Equals("a", float(2**63)), filters.Range("a", gt=0.0), filters.Exists("a")):
        mask = store.matching(condition, 0, 1)
        assert mask is not None
        assert mask.tolist() == [matcher(condition)({"a": number}, "k")], condition
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_rejects_other_types(seed: int) -> None:
    assert not meets({"a": 1}, filters.Equals("a", "1"))
    assert not meets({"a": True}, filters.Equals("a", 1))
    assert meets({"a": [1, 2]}, filters.Equals("a", 2))
