"""Filters in SQL against the same filters in plain Python, on arbitrary attributes."""

from __future__ import annotations

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
from lookalike.model.matching import matches
from lookalike.model.records import VersionedRecord, attributes_text
from shard.kernel import RowIndex
from shard.store import Store
from tests.oracle import meets

EMPTY_INDEX = RowIndex(lambda: (np.zeros(0, np.uint64), np.zeros(0, np.uint32)))
fields = st.sampled_from(["a", "b", "a.b", "a.c", "naïve", "with space", "o'brien", "$x", "b[0]"])
scalars = st.sampled_from(["", "1", "true", "x'; DROP TABLE records; --", "é", "%"]) | st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.integers(-2, 2), st.floats(-2, 2), st.just(1.0)
)
json_values = st.recursive(
    scalars | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c", "naïve"]), inner, max_size=3)
    ),
    max_leaves=6,
)
documents = st.dictionaries(
    st.sampled_from(["a", "b", "naïve", "with space", "o'brien", "$x", "b[0]"]), json_values, max_size=4
)
numbers = st.none() | st.integers(-2, 2).map(float) | st.floats(-2, 2)
ranges = st.builds(filters.Range, fields, numbers, numbers, numbers, numbers).filter(
    lambda r: any(bound is not None for bound in (r.gt, r.gte, r.lt, r.lte))
)
leaves = (
    st.builds(filters.Equals, fields, scalars)
    | st.builds(filters.In, fields, st.lists(scalars, min_size=1, max_size=4).map(tuple))
    | st.builds(filters.Exists, fields)
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
    st.lists(documents, min_size=1, max_size=6),
    st.lists(conditions, min_size=1, max_size=4),
    st.lists(fields, max_size=3, unique=True),
)
def test_sql_agrees_with_python(
    attributes: list[dict[str, Any]], wanted: list[filters.Filter], indexed: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.sqlite"
        Store.create(path, CodeSpace(16), Indexing(attributes=tuple(indexed)))
        store = Store(path)
        records = [
            VersionedRecord(str(number), b"\0\0", attributes_text(values), 1)
            for number, values in enumerate(attributes)
        ]
        with store.writing(records, EMPTY_INDEX):
            pass
        for condition in wanted:
            mask = store.matching(filters.check(condition), 0, len(records))
            assert mask is not None
            assert mask.tolist() == [meets(values, condition) for values in attributes], condition
            assert mask.tolist() == [matches(condition, values) for values in attributes], condition
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
        assert mask.tolist() == [matches(condition, {"a": number})], condition
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_rejects_other_types(seed: int) -> None:
    assert not meets({"a": 1}, filters.Equals("a", "1"))
    assert not meets({"a": True}, filters.Equals("a", 1))
    assert meets({"a": [1, 2]}, filters.Equals("a", 2))
