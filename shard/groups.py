"""Owns the answers to questions about groups: records with equal values of an attribute, nearest to a code. Also
owns the values that this needs in memory.

The row of a row number never changes, so the values of an attribute are read only once per row. They are kept for
the attributes that were used last, and the next question reads only rows that were added after the last."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.hits import HitTable
from lookalike.cluster.select import GroupPlace, GroupsOf, MembersOf, Near, Selected
from lookalike.model.errors import Corruption
from lookalike.model.matching import Comparable
from lookalike.model.records import MAX_ANSWER_BYTES, check_code, record_id
from shard.kernel import Selection, View, grouped, rows_with_ids
from shard.scanner import check_size, flatten
from shard.select import scalars
from shard.store import Store

ATTRIBUTES_REMEMBERED = 8
BYTES_REMEMBERED = 256 * 1024 * 1024
VALUES_CONVERTED = 10_000
# About what a value takes in a dict.
_VALUE_BYTES = 200


@dataclasses.dataclass(frozen=True, slots=True)
class _Column:
    """The values of an attribute in the rows before number `end`.

    Attributes:
        pairs: Each row's values, as indices.
        values: The different values.
        indices: The index of each value.
        end: One more than the highest row number that was read.
    """

    pairs: grouped.Pairs
    values: Sequence[Comparable]
    indices: Mapping[Comparable, int]
    end: int

    @property
    def memory_bytes(self) -> int:
        return self.pairs.numbers.nbytes + self.pairs.groups.nbytes + _VALUE_BYTES * len(self.indices)


_NOTHING = _Column(grouped.Pairs(np.zeros(0, np.uint32), np.zeros(0, np.int32), 0), [], {}, 0)


class Groups:
    """Answers questions about groups of one collection. Any thread may call it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._recent: collections.OrderedDict[str, _Column] = collections.OrderedDict()

    def answer(
        self, kind: GroupsOf | MembersOf, view: View, selection: Selection | None, should_stop: Callable[[], bool]
    ) -> Selected:
        """Returns the answer for a state that the caller has pinned.

        Raises:
            CodeSpaceMismatch: If the code is not in the collection's code space.
            InvalidRequest: If the answer would be too large for a message.
            ScanStopped: If `should_stop` returned True.
        """
        near, space = kind.near, self._store.space
        space.require(near.fingerprint, "the query")
        check_code(near.code, space, "the query")
        column = self._column(near.attribute, view, should_stop)
        rows = grouped.Rows.of(
            view, selection, self._excluded(near, view), near.code, near.max_distance, should_stop
        )
        if isinstance(kind, GroupsOf):
            return Selected(groups=_nearest(kind, rows, column))
        return Selected(hits=self._members(kind, rows, column))

    def _column(self, attribute: str, view: View, should_stop: Callable[[], bool]) -> _Column:
        with self._lock:
            known = self._recent.get(attribute, _NOTHING)
        if known.end > view.end:
            # Read from a later state, which lacks rows that were deleted after this one.
            return self._extended(_NOTHING, attribute, view.end, should_stop)
        column = known if known.end == view.end else self._extended(known, attribute, view.end, should_stop)
        with self._lock:
            other = self._recent.pop(attribute, column)
            self._recent[attribute] = other if other.end > column.end else column
            while len(self._recent) > 1 and (
                len(self._recent) > ATTRIBUTES_REMEMBERED
                or sum(one.memory_bytes for one in self._recent.values()) > BYTES_REMEMBERED
            ):
                self._recent.popitem(last=False)
        return column

    def _extended(self, known: _Column, attribute: str, end: int, should_stop: Callable[[], bool]) -> _Column:
        """Returns the column with the rows up to before number `end`."""
        indices = dict(known.indices)
        numbers, groups = list[int](), list[int]()
        # Most rows have a value that a row before them has, so it is converted only once.
        converted: dict[tuple[str, Any], list[int]] = {}
        for number, kind, value in self._store.values(attribute, should_stop, known.end):
            own = converted.get((kind, value))
            if own is None:
                own = [indices.setdefault(scalar, len(indices)) for scalar in scalars(kind, value)]
                if len(converted) < VALUES_CONVERTED:
                    converted[kind, value] = own
            for group in own:
                numbers.append(number)
                groups.append(group)
        if not numbers:
            return dataclasses.replace(known, end=end)
        added = np.array(numbers, np.uint32)
        # An index of the attribute yields them in another order.
        order = np.argsort(added, kind="stable")
        pairs = grouped.Pairs(
            np.concatenate([known.pairs.numbers, added[order]]),
            np.concatenate([known.pairs.groups, np.array(groups, np.int32)[order]]),
            len(indices),
        )
        return _Column(pairs, list(indices), indices, end)

    def _excluded(self, near: Near, view: View) -> npt.NDArray[np.uint32]:
        """The numbers of the rows whose keys are excluded, ascending."""
        if not near.exclude_keys:
            return np.zeros(0, np.uint32)
        keys = frozenset(near.exclude_keys)
        numbers = rows_with_ids(view, np.fromiter(map(record_id, keys), np.uint64, len(keys))).tolist()
        described = self._store.describe(numbers, False, MAX_ANSWER_BYTES)
        return np.array(sorted(number for number, row in described.items() if row[0] in keys), np.uint32)

    def _members(self, kind: MembersOf, rows: grouped.Rows, column: _Column) -> HitTable:
        known = [place for place, value in enumerate(kind.values) if value in column.indices]
        groups = np.array([column.indices[kind.values[place]] for place in known], np.int32)
        # Keys with equal distances and ids are ordered by key, which the kernel does not have.
        size = kind.size + 1
        matches = grouped.members(rows, column.pairs, groups, size)
        while matches.has_equal_neighbours and (matches.counts == size).any():
            size *= 2
            matches = grouped.members(rows, column.pairs, groups, size)
        found = flatten(matches, np.array(known, np.intp), len(kind.values), size)
        described = self._store.describe(found.numbers.tolist(), kind.include_attributes, MAX_ANSWER_BYTES)
        if len(described) < len(set(found.numbers.tolist())):
            raise Corruption("the store lacks rows that were loaded from it; restore the partition from a backup")
        texts = [described[number] for number in found.numbers.tolist()]
        columns = {"keys": np.array([key for key, _, _ in texts], np.object_)}
        if kind.include_attributes:
            columns["attributes"] = np.array([attributes for _, attributes, _ in texts], np.object_)
        hits = found.hits.with_columns(**columns).sort().head(kind.size)
        check_size(hits)
        return hits


def _nearest(kind: GroupsOf, rows: grouped.Rows, column: _Column) -> list[GroupPlace]:
    groups, distances, ids = grouped.nearest_groups(rows, column.pairs)
    # Groups whose nearest rows have one distance and id (a record in several groups) are ordered by value.
    end = min(kind.k, len(groups))
    while 0 < end < len(groups) and distances[end] == distances[end - 1] and ids[end] == ids[end - 1]:
        end += 1
    places = [
        GroupPlace(column.values[group], distance, identifier)
        for group, distance, identifier in zip(
            groups[:end].tolist(), distances[:end].tolist(), ids[:end].tolist(), strict=True
        )
    ]
    return sorted(places, key=lambda place: place.order)[: kind.k]
