"""Owns the execution of a scan group on one state of a collection: the kernel's matches, then their keys,
attributes and ranks from the store."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.hits import HitTable, RowSelector, concat
from lookalike.cluster.scan import Codes, ScanGroup, Scoring
from lookalike.model import features
from lookalike.model.records import MAX_ANSWER_BYTES, answer_too_large, record_id
from shard.kernel import CodeMatrix, Matches, ScanStopped, Selection, View, weighted
from shard.store import Store
from shard.store_reads import Described

FEATURE_BYTES_AT_ONCE = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Hits and their row numbers, uint32 (n,)."""

    hits: HitTable
    numbers: npt.NDArray[np.uint32]

    def take(self, rows: RowSelector) -> Found:
        return Found(self.hits.take(rows), self.numbers[rows])

    def cut(self, k: int, by_rank: bool) -> Found:
        """The first k hits of each query, ordered."""
        ordered = self.take(self.hits.order(by_rank))
        return ordered.take(ordered.hits.positions < k)


class Scanner:
    """Scans one collection. Any thread may call it."""

    def __init__(self, matrix: CodeMatrix, store: Store, threads: int) -> None:
        self._matrix = matrix
        self._store = store
        self._threads = threads

    def scan(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> HitTable | None:
        """Returns the group's exact hits among the selected rows.

        Returns:
            At most k hits per query, in order; None if the store no longer has one of the rows.

        Raises:
            InvalidRequest: If the answer would be too large for a message.
            ScanStopped: If `should_stop` returned True.
        """
        by_rank = group.scoring is Scoring.ASYMMETRIC
        if by_rank:
            found, has_ties = self._nearest_by_rank(view, selection, group, should_stop), True
        else:
            found, has_ties = self._nearest(view, selection, group, should_stop)
        if group.after is not None or group.exclude_keys:
            wanted = self._without_left_out(found, group)
            if wanted is None:
                return None
            found = wanted if has_ties else wanted.take(wanted.hits.positions < group.k)
        if not self._describe(found, group):
            return None
        if has_ties:
            found = found.cut(group.k, by_rank)
        if group.include_attributes:
            check_size(found.hits)
        if by_rank or group.inputs is None:
            return found.hits
        ranks = self._ranks(view, group, found, should_stop)
        return None if ranks is None else found.hits.with_columns(ranks=ranks)

    def _nearest(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> tuple[Found, bool]:
        """The k nearest rows of each query, and rows that may be left out. Rows with equal distance and id (two
        keys with the same hash) are ordered by key, which the kernel does not have. If there are such rows,
        returns enough rows to include all that tie with the k-th, and True."""
        floor = (0, 0) if group.after is None else (int(group.after.value), record_id(group.after.key))

        def scan(codes: Codes, k: int) -> Matches:
            return self._matrix.scan(
                codes, k, view=view, max_distance=group.max_distance, floor=floor, selection=selection,
                threads=self._threads, should_stop=should_stop,
            )  # fmt: skip

        most = _rows_needed(group, 1)
        matches = scan(group.codes, most + 1)
        if not matches.has_equal_neighbours:
            return flatten(matches, np.arange(len(group.codes)), len(group.codes), most), False
        parts = []
        for q in range(len(group.codes)):
            k = most + 1
            matches = scan(group.codes[q : q + 1], k)
            while matches.counts[0] == k and is_cut_in_a_tie(
                matches, _rows_needed(group, _rows_at(matches, floor))
            ):
                k *= 2
                matches = scan(group.codes[q : q + 1], k)
            parts.append(flatten(matches, np.array([q]), len(group.codes), k))
        return _concat(parts, len(group.codes)), True

    def _nearest_by_rank(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> Found:
        """The k nearest rows of each query by asymmetric rank."""
        assert group.inputs is not None
        queries = len(group.codes)
        parts = []
        for q, (query, weights) in enumerate(zip(group.codes, group.inputs, strict=True)):
            floor = _weighted_floor(group, weights)
            scan = functools.partial(
                weighted.scan, view, query, weights,
                max_distance=group.max_distance, floor=floor, selection=selection, should_stop=should_stop,
            )  # fmt: skip
            found = scan(_rows_needed(group, 1))
            at_floor = (found.weighted == floor[0]) & (found.ids == np.uint64(floor[1]))
            if np.count_nonzero(at_floor) > 1:
                found = scan(_rows_needed(group, int(np.count_nonzero(at_floor))))
            hits = HitTable(
                queries,
                query_of=np.full(len(found.ids), q),
                distances=found.distances,
                ids=found.ids,
                ranks=_share(found.weighted, weights),
            )
            parts.append(Found(hits, found.numbers))
        return _concat(parts, queries)

    def _without_left_out(self, found: Found, group: ScanGroup) -> Found | None:
        """Returns the hits after the group's place and without its excluded keys. None if the store no longer has
        one of the rows."""
        ids = found.hits.ids
        excluded = frozenset(group.exclude_keys)
        suspect = np.isin(ids, np.fromiter(map(record_id, excluded), np.uint64, len(excluded)))
        is_at_place = np.zeros(len(ids), np.bool_)
        if group.after is not None:
            values = found.hits.ranks if group.scoring is Scoring.ASYMMETRIC else found.hits.distances
            is_at_place = (values == group.after.value) & (ids == np.uint64(record_id(group.after.key)))
        rows = np.flatnonzero(suspect | is_at_place)
        numbers = found.numbers[rows].tolist()
        described = self._store.describe(numbers, False, MAX_ANSWER_BYTES)
        if len(described) < len(set(numbers)):
            return None
        wanted = np.ones(len(ids), np.bool_)
        for row, number in zip(rows.tolist(), numbers, strict=True):
            key = described[number][0]
            was_passed = group.after is not None and bool(is_at_place[row]) and key <= group.after.key
            wanted[row] = key not in excluded and not was_passed
        return found.take(wanted)

    def _describe(self, found: Found, group: ScanGroup) -> bool:
        """Fills in the hits' keys and, on request, attributes and versions. Returns False if the store no longer
        has one of the rows."""
        numbers = found.numbers.tolist()
        described = self._store.describe(numbers, group.include_attributes, MAX_ANSWER_BYTES)
        if len(described) < len(set(numbers)):
            return False
        rows = list(map(described.__getitem__, numbers))
        found.hits.keys = _column(rows, 0, np.object_)
        if group.include_attributes:
            found.hits.attributes = _column(rows, 1, np.object_)
        if group.include_versions:
            found.hits.versions = _column(rows, 2, np.uint64)
        return True

    def _ranks(
        self, view: View, group: ScanGroup, found: Found, should_stop: Callable[[], bool]
    ) -> npt.NDArray[np.float64] | None:
        """The rank of each hit under the group's rerank, float64 (n,). None if the store no longer has one of the
        rows."""
        assert group.inputs is not None
        ranks = [np.zeros(0)]
        offsets = found.hits.offsets.tolist()
        for q, (query, values) in enumerate(zip(group.codes, group.inputs, strict=True)):
            if should_stop():
                raise ScanStopped
            numbers = found.numbers[offsets[q] : offsets[q + 1]]
            if group.scoring is Scoring.RERANK_ASYMMETRIC:
                ranks.append(_share(weighted.weigh(view, numbers, query, values), values))
                continue
            # In parts, because wide features of many candidates would fill the memory.
            step = max(1, FEATURE_BYTES_AT_ONCE // (8 * len(values)))
            for at in range(0, len(numbers), step):
                if should_stop():
                    raise ScanStopped
                part = numbers[at : at + step].tolist()
                stored = self._store.features(part)
                if len(stored) < len(part):
                    return None
                kept = features.unpack(self._store.indexing.features, [stored[number] for number in part])
                ranks.append(1 - features.cosines(values, kept))
        return np.concatenate(ranks)


def flatten(matches: Matches, query_of: npt.NDArray[np.intp], queries: int, k: int) -> Found:
    """The first k matches of each query. Row i of `matches` belongs to the query with index `query_of[i]`."""
    taken: Any
    if len(query_of) == 1:  # A slice costs less than a mask.
        count = min(int(matches.counts[0]), k)
        taken, rows = (0, slice(count)), query_of.repeat(count)
    else:
        counts = np.minimum(matches.counts, k)
        taken = np.arange(matches.distances.shape[1]) < counts[:, None]
        rows = np.repeat(query_of, counts)
    hits = HitTable(
        queries,
        query_of=rows,
        distances=matches.distances[taken],
        ids=matches.ids[taken],
    )
    return Found(hits, matches.numbers[taken])


def _concat(parts: list[Found], queries: int) -> Found:
    return Found(concat([part.hits for part in parts], queries), np.concatenate([part.numbers for part in parts]))


def check_size(hits: HitTable) -> None:
    """Raises InvalidRequest if the texts are too large. A row that several queries find is sent once for each."""
    if sum(map(len, hits.keys)) + sum(map(len, hits.attributes)) > MAX_ANSWER_BYTES:
        raise answer_too_large()


def _column(rows: Sequence[Described], field: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    """One field of the rows, (n,)."""
    return np.fromiter(map(operator.itemgetter(field), rows), kind, len(rows))


def _share(totals: npt.NDArray[np.uint32], weights: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Weighted distances as a share of the total weight, 0..1. Shares are equal only if the distances are."""
    result: npt.NDArray[np.float64] = totals / max(1, int(weights.sum(dtype=np.int64)))
    return result


def _rows_needed(group: ScanGroup, at_place: int) -> int:
    """How many of the nearest rows contain the group's k hits. at_place: how many rows have the distance and id of
    the group's place, and so may precede it by key."""
    return group.k + len(group.exclude_keys) + (at_place if group.after is not None else 0)


def _rows_at(matches: Matches, floor: tuple[int, int]) -> int:
    """The number of matches of the first query with the floor's distance and id."""
    count = int(matches.counts[0])
    distances, ids = matches.distances[0, :count], matches.ids[0, :count]
    return max(1, int(np.count_nonzero((distances == floor[0]) & (ids == np.uint64(floor[1])))))


def _weighted_floor(group: ScanGroup, weights: npt.NDArray[np.generic]) -> tuple[int, int]:
    """The weighted distance and the id of the group's place: the inverse of `_share`, which is exact, because the
    sums are much smaller than 2**53."""
    if group.after is None:
        return 0, 0
    return round(group.after.value * max(1, int(weights.sum(dtype=np.int64)))), record_id(group.after.key)


def is_cut_in_a_tie(matches: Matches, needed: int) -> bool:
    """Whether the first query's matches, of which there may be more, do not reach beyond all that tie with its
    match number `needed`."""
    last = int(matches.counts[0]) - 1
    if last < needed:
        return True
    distances, ids = matches.distances[0], matches.ids[0]
    return bool(distances[last] == distances[needed - 1] and ids[last] == ids[needed - 1])
