"""Hits as columns: no operation and no codec may lose a column."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lookalike import wire
from lookalike.cluster.hits import HitTable, column_names, concat
from lookalike.cluster.scan import ScanResult
from lookalike.v1 import shard_pb2

QUERIES, HITS = 3, 7
QUERY_OF = [0, 0, 0, 2, 2, 2, 2]


@dataclasses.dataclass(slots=True, eq=False)
class WiderTable(HitTable):
    """A table with one more column."""

    extra: npt.NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))


def filled(kind: type[HitTable], seed: int = 1) -> HitTable:
    """A table with a value in every row of every column."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name == "queries":
            continue
        values = rng.permutation(1000)[:HITS]
        dtype = field.default_factory().dtype  # type: ignore[misc]
        columns[field.name] = (
            np.array([f"text {value}" for value in values], dtype) if dtype.hasobject else values.astype(dtype)
        )
    return kind(QUERIES, **{**columns, "query_of": np.array(QUERY_OF)})


def columns_of(table: HitTable) -> dict[str, list[Any]]:
    return {
        field.name: getattr(table, field.name).tolist()
        for field in dataclasses.fields(table)
        if field.name != "queries"
    }


def expected(table: HitTable, rows: list[int], **changed: list[int]) -> dict[str, list[Any]]:
    """The columns of these rows, by plain lists."""
    return {name: [values[row] for row in rows] for name, values in columns_of(table).items()} | changed


kinds = pytest.mark.parametrize("kind", [HitTable, WiderTable])


@kinds
def test_every_column_survives_take(kind: type[HitTable]) -> None:
    table = filled(kind)
    assert set(columns_of(table)) == set(column_names(kind))
    assert columns_of(table.take(np.array([5, 0, 3]))) == expected(table, [5, 0, 3])
    assert columns_of(table.take(slice(2, 5))) == expected(table, [2, 3, 4])
    assert columns_of(table.take(table.query_of == 2)) == expected(table, [3, 4, 5, 6])


@kinds
def test_every_column_survives_head(kind: type[HitTable]) -> None:
    table = filled(kind)
    assert columns_of(table.head(2)) == expected(table, [0, 1, 3, 4])
    assert columns_of(table.head(3)) == expected(table, [0, 1, 2, 3, 4, 5])
    assert columns_of(table.head(4)) == columns_of(table)


@kinds
def test_every_column_survives_split(kind: type[HitTable]) -> None:
    table = filled(kind)
    first, second = table.split([1, 2])
    assert (first.queries, second.queries) == (1, 2)
    assert columns_of(first) == expected(table, [0, 1, 2])
    assert columns_of(second) == expected(table, [3, 4, 5, 6], query_of=[1, 1, 1, 1])
    assert [len(part) for part in table.split([1, 1, 1])] == [3, 0, 4]


@kinds
@pytest.mark.parametrize("by_rank", [False, True])
def test_every_column_survives_sort(kind: type[HitTable], by_rank: bool) -> None:
    table = filled(kind)
    values = table.ranks if by_rank else table.distances
    rows = sorted(range(HITS), key=lambda row: (QUERY_OF[row], values[row]))
    assert rows != list(range(HITS))
    assert columns_of(table.sort(by_rank)) == expected(table, rows)


@kinds
def test_every_column_survives_concat(kind: type[HitTable]) -> None:
    one, other = filled(kind, 1), filled(kind, 2)
    joined = concat([one, other], QUERIES)
    assert type(joined) is kind
    assert columns_of(joined) == {
        name: values + columns_of(other)[name] for name, values in columns_of(one).items()
    }
    assert joined.sort().counts.tolist() == [6, 0, 8]


def test_every_column_survives_the_wire() -> None:
    table = filled(HitTable)
    message = wire.scan_result_to_wire(ScanResult(table, 9, ["a"], ["b"]))
    result = wire.scan_result_from_wire(shard_pb2.ScanHits.FromString(message.SerializeToString()), 5)
    assert isinstance(result, ScanResult)
    assert columns_of(result.hits) == columns_of(table)
    assert result.hits.queries == QUERIES
    for name in column_names(HitTable):
        assert getattr(result.hits, name).dtype == getattr(table, name).dtype, name
    assert dataclasses.replace(result, hits=table) == ScanResult(table, 9, ["a"], ["b"], 5)


def test_columns_that_were_not_requested_stay_empty() -> None:
    table = dataclasses.replace(filled(HitTable), attributes=np.zeros(0, np.object_), ranks=np.zeros(0))
    for result in (table.head(1), table.sort(), table.take(np.array([1])), concat([table, table], QUERIES)):
        assert len(result) > 0
        assert len(result.attributes) == len(result.ranks) == 0
        assert len(result.keys) == len(result)


def test_a_column_that_one_part_lacks_is_an_error() -> None:
    table = filled(HitTable)
    with pytest.raises(ValueError, match=r"versions: 7 values for 14 hits"):
        concat([table, dataclasses.replace(table, versions=np.zeros(0, np.uint64))], QUERIES)
