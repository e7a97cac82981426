"""Owns the plain data of a shard's work: what a coordinator asks of a shard, and what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.filters import Filter

Codes = npt.NDArray[np.uint8]
Distances = npt.NDArray[np.uint16]
Ids = npt.NDArray[np.uint64]


@dataclasses.dataclass(frozen=True, slots=True)
class ScanGroup:
    """Queries that share their options. codes: uint8 (n, bits/8)."""

    collection: str
    fingerprint: str
    codes: Codes
    k: int
    max_distance: int | None = None
    filter: Filter | None = None
    include_attributes: bool = False

    @property
    def options(self) -> tuple[object, ...]:
        """All but the codes: groups that are alike in these can be answered as one."""
        return (
            self.collection,
            self.fingerprint,
            self.k,
            self.max_distance,
            self.filter,
            self.include_attributes,
        )

    @property
    def weight(self) -> int:
        """What the group takes of a batch's room: its queries, more for those that want many hits."""
        return len(self.codes) * (1 + self.k // 100)


@dataclasses.dataclass(frozen=True, slots=True)
class ScanHits:
    """Hits of a group's queries, end to end: counts[q] of them for query q, each query's ordered by
    (distance, id, key). `attributes` is empty unless asked for. rows: live rows at the scan's start."""

    counts: Sequence[int]
    distances: Distances
    ids: Ids
    keys: Sequence[str]
    attributes: Sequence[str]
    rows: int
    unknown_fields: Sequence[str] = ()
    known_fields: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class WriteResult:
    """existed[i]: was a live record there before? superseded: the indices whose record lost to a higher
    stored version, with that version. newest_version: the highest version in the collection."""

    existed: Sequence[bool]
    superseded: Mapping[int, int]
    newest_version: int
