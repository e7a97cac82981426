"""Owns the plain data of a shard's work: what a coordinator asks of a shard, and what comes back."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model.filters import Filter

Codes = npt.NDArray[np.uint8]
Distances = npt.NDArray[np.uint16]
Ids = npt.NDArray[np.uint64]
# Of asymmetric scoring: uint16 weights (n, bits). Of features: float32 (n, width).
Inputs = npt.NDArray[np.uint16] | npt.NDArray[np.float32]


# What an asymmetric scan costs beside a Hamming scan of the same rows.
_ASYMMETRIC_WORK = 10
# Features compared in the time of a query, and bytes of inputs that take up a query's room.
_FEATURES_PER_WORK = 100_000
_INPUT_BYTES = 64 * 1024


class Scoring(enum.Enum):
    """How rows are scored beyond their Hamming distance. A rerank ranks the k nearest by that distance."""

    HAMMING = 1
    RERANK_ASYMMETRIC = 2
    RERANK_FEATURES = 3
    ASYMMETRIC = 4


@dataclasses.dataclass(frozen=True, slots=True)
class ScanGroup:
    """Queries that share their options. codes: uint8 (n, bits/8). features: what the collection is thought to keep
    of them. inputs: what the scoring needs, a row per query; None by HAMMING."""

    collection: str
    fingerprint: str
    codes: Codes
    k: int
    max_distance: int | None = None
    filter: Filter | None = None
    include_attributes: bool = False
    features: str = ""
    scoring: Scoring = Scoring.HAMMING
    inputs: Inputs | None = None
    include_versions: bool = False

    @property
    def options(self) -> tuple[object, ...]:
        """All but codes and inputs: groups that are alike in these can be answered as one."""
        return (
            self.collection,
            self.fingerprint,
            self.k,
            self.max_distance,
            self.filter,
            self.include_attributes,
            self.features,
            self.scoring,
            self.include_versions,
        )

    def joined(self, others: Sequence[ScanGroup]) -> ScanGroup:
        """This group and others with the same options as one."""
        if not others:
            return self
        groups = [self, *others]
        inputs: list[npt.NDArray[Any]] = [group.inputs for group in groups if group.inputs is not None]
        return dataclasses.replace(
            self,
            codes=np.concatenate([group.codes for group in groups]),
            inputs=np.concatenate(inputs) if inputs else None,
        )

    @property
    def weight(self) -> int:
        """What the group takes of a batch's room: its queries, more for those that want many hits or much work."""
        work = 1 + self.k // 100
        if self.scoring is Scoring.ASYMMETRIC:
            work *= _ASYMMETRIC_WORK
        if self.scoring is Scoring.RERANK_FEATURES and self.inputs is not None:
            work += self.k * self.inputs.shape[1] // _FEATURES_PER_WORK
        room = 0 if self.inputs is None else self.inputs.nbytes // _INPUT_BYTES
        return len(self.codes) * work + room


@dataclasses.dataclass(frozen=True, slots=True)
class ScanHits:
    """Hits of a group's queries, end to end: counts[q] of them for query q, each query's ordered by
    (distance, id, key), or by (rank, id, key) where all rows are scored. `attributes` is empty unless asked for.
    rows: live rows at the scan's start, of the slots that were searched. ranks: float64, one per hit, lower is
    nearer; empty by HAMMING. versions: empty unless asked for. stale_ms: every write acknowledged so long ago is
    in it."""

    counts: Sequence[int]
    distances: Distances
    ids: Ids
    keys: Sequence[str]
    attributes: Sequence[str]
    rows: int
    unknown_fields: Sequence[str] = ()
    known_fields: Sequence[str] = ()
    ranks: npt.NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))
    versions: Sequence[int] = ()
    stale_ms: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class WriteResult:
    """existed[i]: was a live record there before? superseded: the indices whose record lost to a higher
    stored version, with that version. newest_version: the highest version in the collection. elsewhere: partitions
    that must store the records of a slot as well. refused: indices of records that were not taken, for their slots
    are not here."""

    existed: Sequence[bool]
    superseded: Mapping[int, int]
    newest_version: int
    elsewhere: Mapping[int, int] = dataclasses.field(default_factory=dict)
    refused: frozenset[int] = frozenset()
