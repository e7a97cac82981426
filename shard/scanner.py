"""Owns the execution of a scan group on one state of a collection: the kernel's matches, then their keys,
attributes and ranks from the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.hits import HitTable, RowSelector, concat
from lookalike.cluster.scan import Codes, ScanGroup, Scoring
from lookalike.model import features
from lookalike.model.records import MAX_ANSWER_BYTES, answer_too_large
from shard.kernel import CodeMatrix, Matches, ScanStopped, Selection, View, weighted
from shard.store import Store

FEATURE_BYTES_AT_ONCE = 32 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    """Hits and their row numbers, uint32 (n,)."""

    hits: HitTable
    numbers: npt.NDArray[np.uint32]

    def take(self, rows: RowSelector) -> _Found:
        return _Found(self.hits.take(rows), self.numbers[rows])

    def cut(self, k: int, by_rank: bool) -> _Found:
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
        described = self._describe(found, group)
        if described is None:
            return None
        if has_ties:
            described = described.cut(group.k, by_rank)
        if group.include_attributes:
            _check_size(described.hits)
        if by_rank or group.inputs is None:
            return described.hits
        ranks = self._ranks(view, group, described, should_stop)
        return None if ranks is None else described.hits.with_columns(ranks=ranks)

    def _nearest(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> tuple[_Found, bool]:
        """The k nearest rows of each query. Rows with equal distance and id (two keys with the same hash) are
        ordered by key, which the kernel does not have. If there are such rows, returns enough rows to include all
        that tie with the k-th, and True."""

        def scan(codes: Codes, k: int) -> Matches:
            return self._matrix.scan(
                codes, k, view=view, max_distance=group.max_distance, selection=selection,
                threads=self._threads, should_stop=should_stop,
            )  # fmt: skip

        matches = scan(group.codes, group.k + 1)
        if not _has_equal_neighbours(matches):
            return _flatten(matches, np.arange(len(group.codes)), len(group.codes), group.k), False
        parts = []
        for q in range(len(group.codes)):
            k = group.k + 1
            matches = scan(group.codes[q : q + 1], k)
            while matches.counts[0] == k and _is_tie(matches, k - 1, group.k - 1):
                k *= 2
                matches = scan(group.codes[q : q + 1], k)
            parts.append(_flatten(matches, np.array([q]), len(group.codes), k))
        return _concat(parts, len(group.codes)), True

    def _nearest_by_rank(
        self, view: View, selection: Selection | None, group: ScanGroup, should_stop: Callable[[], bool]
    ) -> _Found:
        """The k nearest rows of each query by asymmetric rank."""
        assert group.inputs is not None
        queries = len(group.codes)
        parts = []
        for q, (query, weights) in enumerate(zip(group.codes, group.inputs, strict=True)):
            found = weighted.scan(
                view, query, weights, group.k,
                max_distance=group.max_distance, selection=selection, should_stop=should_stop,
            )  # fmt: skip
            hits = HitTable(
                queries,
                query_of=np.full(len(found.ids), q),
                distances=found.distances,
                ids=found.ids,
                ranks=_share(found.weighted, weights),
            )
            parts.append(_Found(hits, found.numbers))
        return _concat(parts, queries)

    def _describe(self, found: _Found, group: ScanGroup) -> _Found | None:
        """Adds keys and, on request, attributes and versions. None if the store no longer has one of the rows."""
        numbers = found.numbers.tolist()
        described = self._store.describe(numbers, group.include_attributes, MAX_ANSWER_BYTES)
        if len(described) < len(set(numbers)):
            return None
        columns: dict[str, Any] = {"keys": np.array([described[number][0] for number in numbers], np.object_)}
        if group.include_attributes:
            columns["attributes"] = np.array([described[number][1] for number in numbers], np.object_)
        if group.include_versions:
            columns["versions"] = np.array([described[number][2] for number in numbers], np.uint64)
        return _Found(found.hits.with_columns(**columns), found.numbers)

    def _ranks(
        self, view: View, group: ScanGroup, found: _Found, should_stop: Callable[[], bool]
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


def _flatten(matches: Matches, query_of: npt.NDArray[np.intp], queries: int, k: int) -> _Found:
    """The first k matches of each query. Row i of `matches` belongs to the query with index `query_of[i]`."""
    taken: Any
    if len(query_of) == 1:  # A slice costs less than a mask.
        count = min(int(matches.counts[0]), k)
        taken, rows = (0, slice(count)), np.full(count, query_of[0])
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
    return _Found(hits, matches.numbers[taken])


def _concat(parts: list[_Found], queries: int) -> _Found:
    return _Found(concat([part.hits for part in parts], queries), np.concatenate([part.numbers for part in parts]))


def _check_size(hits: HitTable) -> None:
    """Raises InvalidRequest if the texts are too large. A row that several queries find is sent once for each."""
    if sum(map(len, hits.keys)) + sum(map(len, hits.attributes)) > MAX_ANSWER_BYTES:
        raise answer_too_large()


def _share(totals: npt.NDArray[np.uint32], weights: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Weighted distances as a share of the total weight, 0..1. Shares are equal only if the distances are."""
    result: npt.NDArray[np.float64] = totals / max(1, int(weights.sum(dtype=np.int64)))
    return result


def _is_tie(matches: Matches, a: int, b: int) -> bool:
    return bool(matches.distances[0, a] == matches.distances[0, b] and matches.ids[0, a] == matches.ids[0, b])


def _has_equal_neighbours(matches: Matches) -> bool:
    equal = matches.ids[:, 1:] == matches.ids[:, :-1]
    if not equal.any():  # almost always
        return False
    equal &= matches.distances[:, 1:] == matches.distances[:, :-1]
    inside = np.arange(1, matches.distances.shape[1]) < matches.counts[:, None]
    return bool((equal & inside).any())
