"""Owns the table of the hits of a batch of queries, stored as columns. Only this module lists the columns and
moves rows.

A new column needs a field here, code that fills it in `shard.scanner`, and a codec in
`lookalike.wire.shard.scans`. Pure NumPy."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# Indices of rows, a mask over rows, or a slice.
RowSelector = npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice
Texts = npt.NDArray[np.object_]


def _empty(kind: type[np.generic]) -> Callable[[], npt.NDArray[Any]]:
    """Returns a function that always returns the same empty column: one query makes several tables, so creating
    a column for each would be slow."""
    column: npt.NDArray[Any] = np.zeros(0, kind)
    column.flags.writeable = False
    return lambda: column


# A table must not be changed once its columns are filled. Not frozen: a frozen instance takes several times as
# long to create.
@dataclasses.dataclass(slots=True, eq=False)
class HitTable:
    """The hits of `queries` queries, one row per hit.

    Every column has either one value per row or, if it was not requested, none. The rows of one query are
    adjacent, and queries ascend; only a table from `concat` is unordered until it is sorted.

    Attributes:
        queries: The number of queries, including those without hits.
        query_of: int64 (n,), the index of the query that each row belongs to.
        distances: uint16 (n,), Hamming distances.
        ids: uint64 (n,), hashes of the keys.
        keys: object (n,) of str.
        attributes: object (n,) of str, one JSON object per row.
        ranks: float64 (n,), lower is nearer: 1 - score. Empty for plain Hamming search.
        versions: uint64 (n,), versions of the records.
    """

    queries: int
    query_of: npt.NDArray[np.int64] = dataclasses.field(default_factory=_empty(np.int64))
    distances: npt.NDArray[np.uint16] = dataclasses.field(default_factory=_empty(np.uint16))
    ids: npt.NDArray[np.uint64] = dataclasses.field(default_factory=_empty(np.uint64))
    keys: Texts = dataclasses.field(default_factory=_empty(np.object_))
    attributes: Texts = dataclasses.field(default_factory=_empty(np.object_))
    ranks: npt.NDArray[np.float64] = dataclasses.field(default_factory=_empty(np.float64))
    versions: npt.NDArray[np.uint64] = dataclasses.field(default_factory=_empty(np.uint64))

    def __len__(self) -> int:
        """The number of hits, over all queries."""
        return len(self.query_of)

    @property
    def counts(self) -> npt.NDArray[np.intp]:
        """The number of hits of each query, (queries,)."""
        if self.queries == 1:  # a common case, in which this is several times as fast
            return np.array([len(self)])
        return np.bincount(self.query_of, minlength=self.queries)

    @property
    def offsets(self) -> npt.NDArray[np.intp]:
        """Query q has the rows offsets[q]:offsets[q + 1], (queries + 1,)."""
        return np.searchsorted(self.query_of, np.arange(self.queries + 1))

    @property
    def positions(self) -> npt.NDArray[np.intp]:
        """The position of each row among those of its query, (n,)."""
        positions: npt.NDArray[np.intp] = np.arange(len(self)) - self.offsets[self.query_of]
        return positions

    def take(self, rows: RowSelector) -> HitTable:
        """Returns the selected rows, in the order given."""
        kind: Any = type(self)
        table: HitTable = kind(self.queries, **{name: column[rows] for name, column in self._filled().items()})
        return table

    def with_columns(self, **columns: npt.NDArray[Any]) -> HitTable:
        """Returns the same rows with columns added or replaced."""
        kind: Any = type(self)
        # This takes half the time of dataclasses.replace.
        table: HitTable = kind(self.queries, **self._filled() | columns)
        return table

    def head(self, k: int) -> HitTable:
        """Returns the first k rows of each query."""
        if len(self) <= k:
            return self
        if self.queries == 1:
            return self.take(slice(k))
        kept = self.positions < k
        return self if kept.all() else self.take(kept)

    def split(self, sizes: Sequence[int]) -> list[HitTable]:
        """Returns one table for each run of consecutive queries.

        Args:
            sizes: The number of queries in each run; they add up to `queries`.
        """
        if len(sizes) == 1:
            return [self]
        firsts = np.cumsum([0, *sizes])
        bounds = np.searchsorted(self.query_of, firsts).tolist()
        columns = self._filled()
        # In each run, `query_of` counts from the run's first query.
        columns["query_of"] = self.query_of - np.repeat(firsts[:-1], np.diff(bounds))
        kind: Any = type(self)
        return [
            kind(size, **{name: column[start:end] for name, column in columns.items()})
            for size, (start, end) in zip(sizes, itertools.pairwise(bounds), strict=True)
        ]

    def sort(self, by_rank: bool = False) -> HitTable:
        """Returns the table with its rows in the order of the method `order`."""
        return self.take(self.order(by_rank))

    def order(self, by_rank: bool = False) -> npt.NDArray[np.intp]:
        """Returns the row indices ordered by (query, distance, id, key), or by (query, rank, id, key)."""
        values: npt.NDArray[Any] = self.ranks if by_rank else self.distances
        order = np.lexsort((self.ids, values, self.query_of))
        ids = self.ids[order]
        # Keys decide only between rows with the same id, which are rare. Comparing keys is slow.
        if (ids[1:] == ids[:-1]).any():
            columns = (self.query_of, values, self.ids, self.keys)
            by_row = list(zip(*(column.tolist() for column in columns), strict=True))
            order = np.array(sorted(order.tolist(), key=by_row.__getitem__), np.intp)
        return order

    def _filled(self) -> dict[str, npt.NDArray[Any]]:
        """The columns that have values, by name."""
        kind: Any = type(self)
        columns = zip(column_names(kind), _columns_of(kind)(self), strict=True)
        return {name: column for name, column in columns if len(column)}


@functools.cache
def column_names(kind: type[Any]) -> tuple[str, ...]:
    """The names of a table's columns."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.name != "queries")


@functools.cache
def _columns_of(kind: Any) -> Callable[[HitTable], tuple[npt.NDArray[Any], ...]]:
    """Returns a function that returns a table's columns, in the order of `column_names`."""
    return operator.attrgetter(*column_names(kind))


def concat(parts: Sequence[HitTable], queries: int) -> HitTable:
    """Puts tables for the same queries end to end; `sort` makes each query's rows adjacent again.

    Raises:
        ValueError: If one table with hits has a column that another lacks.
    """
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return HitTable(queries)
    kind: Any = type(parts[0])
    size = sum(map(len, parts))
    joined = {}
    for name, columns in zip(column_names(kind), zip(*map(_columns_of(kind), parts), strict=True), strict=True):
        if count := sum(map(len, columns)):
            if count != size:
                raise ValueError(f"{name}: {count} values for {size} hits; request the column from every part")
            joined[name] = np.concatenate(columns)
    table: HitTable = kind(queries, **joined)
    return table


def merge(parts: Sequence[HitTable], queries: int, k: int, by_rank: bool = False) -> HitTable:
    """Merges per-partition hits into the k nearest of each query.

    Associative and commutative, so the number of partitions cannot change the answer.

    Args:
        parts: One table per partition, for the same queries.
        queries: The number of queries.
        k: The number of hits to keep per query.
        by_rank: Order by (rank, id, key) instead of (distance, id, key).

    Returns:
        At most k hits per query, in order.
    """
    joined = concat(parts, queries)
    if queries == 1:  # one copy of the rows instead of two
        return joined.take(joined.order(by_rank)[:k])
    return joined.sort(by_rank).head(k)
