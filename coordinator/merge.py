"""Owns the merge of the shards' answers: pure, on arrays, the same for any number of parts."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.scan import ScanHits


@dataclasses.dataclass(frozen=True, slots=True)
class QueryHits:
    """One query's hits, ordered by (distance, id, key), or by (rank, id, key) where all rows are so scored.
    `attributes` is empty unless asked for, `ids` and `ranks` without a scoring."""

    distances: Sequence[int]
    ids: Sequence[int]
    keys: Sequence[str]
    attributes: Sequence[str]
    ranks: Sequence[float]

    @classmethod
    def none(cls) -> QueryHits:
        return cls([], [], [], [], [])

    def first(self, k: int, but: str | None) -> QueryHits:
        """The first k hits, leaving out the record with key `but`."""
        if but is None and len(self.keys) <= k:
            return self
        return self.taken([i for i, key in enumerate(self.keys) if key != but][:k])

    def taken(self, places: Sequence[int]) -> QueryHits:
        """The hits at these places, in this order."""
        return QueryHits(
            [self.distances[i] for i in places],
            [self.ids[i] for i in places] if self.ids else [],
            [self.keys[i] for i in places],
            [self.attributes[i] for i in places] if self.attributes else [],
            [self.ranks[i] for i in places] if self.ranks else [],
        )


def merge(parts: Sequence[ScanHits], queries: int, k: int, by_rank: bool = False) -> list[QueryHits]:
    """Merge per-partition top-k lists, each ordered by (distance, id, key), or by (rank, id, key), into one per
    query.

    Associative and commutative, so the number of shards cannot change the answer: records with one id
    are on one partition, and the sort is stable, so their order by key stays."""
    distances = _join([part.distances for part in parts], np.uint16)
    ids = _join([part.ids for part in parts], np.uint64)
    query_of = _join([np.repeat(np.arange(queries), part.counts) for part in parts], np.int64)
    keys = [key for part in parts for key in part.keys]
    attributes = [text for part in parts for text in part.attributes]
    ranks = _join([part.ranks for part in parts], np.float64)
    order = np.lexsort((ids, ranks if by_rank else distances, query_of))
    starts = np.searchsorted(query_of[order], np.arange(queries + 1)).tolist()
    rows, ordered = order.tolist(), distances[order].tolist()
    # Only what is put in order once more needs them.
    ordered_ids, ordered_ranks = (ids[order].tolist(), ranks[order].tolist()) if len(ranks) else ([], [])
    merged = []
    for start, end in itertools.pairwise(starts):
        end = min(end, start + k)
        chosen = rows[start:end]
        merged.append(
            QueryHits(
                ordered[start:end],
                ordered_ids[start:end],
                [keys[row] for row in chosen],
                [attributes[row] for row in chosen] if attributes else [],
                ordered_ranks[start:end],
            )
        )
    return merged


def _join(arrays: Sequence[npt.NDArray[np.generic]], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)
