"""Owns the requests of a coordinator to a shard and the shard's answers, as plain data."""

from __future__ import annotations

import dataclasses
import enum
import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.hits import HitTable
from lookalike.model.filters import Filter, size_of
from lookalike.model.query import MAX_EXAMPLES
from lookalike.model.records import MAX_K

# The most hits that a query requests from a shard: k, one to see whether there are more, and one to replace each
# of the records that the query starts from.
MAX_SCAN_K = MAX_K + 1 + 2 * MAX_EXAMPLES
# How long a shard keeps a key reserved. A coordinator stores the record well before.
RESERVED_SECONDS = 60.0
Codes = npt.NDArray[np.uint8]
# For asymmetric scoring: uint16 weights (n, bits). For features: float32 (n, width).
Inputs = npt.NDArray[np.uint16] | npt.NDArray[np.float32]

# The fields of a group that have a value for each query. All other fields are options.
_PER_QUERY = frozenset({"codes", "inputs"})
# Cost of an asymmetric scan relative to a Hamming scan of the same rows.
_ASYMMETRIC_WORK = 10
# How many compared feature values, and how many bytes of inputs, weigh as much as one query.
_FEATURES_PER_WORK = 100_000
_INPUT_BYTES = 64 * 1024
# How many bytes of a filter's values weigh as much: a round's filters must fit into a message.
_FILTER_BYTES = 32 * 1024


class Scoring(enum.Enum):
    """How rows are scored beyond their Hamming distance. A rerank scores only the k nearest by that distance."""

    HAMMING = 1
    RERANK_ASYMMETRIC = 2
    RERANK_FEATURES = 3
    ASYMMETRIC = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """A place in the order of hits: that of (value, id of the key, key).

    Attributes:
        value: A distance; for `Scoring.ASYMMETRIC`, a rank.
        key: A record's key. The record need not exist.
    """

    value: float
    key: str


# Must not be changed. Not frozen, for the same reason as `HitTable`.
@dataclasses.dataclass(slots=True)
class ScanGroup:
    """Queries that share their options.

    Attributes:
        codes: uint8 (n, bits/8), one row per query.
        features: How the collection stores features according to the caller, such as "int8 1280".
        inputs: What the scoring needs, one row per query; None for `Scoring.HAMMING`.
        after: Only hits that follow this place are returned.
        exclude_keys: Records with these keys are left out.
    """

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
    after: Place | None = None
    exclude_keys: tuple[str, ...] = ()

    @property
    def batch_key(self) -> tuple[object, ...]:
        """The group's options. Groups with equal keys can share one scan."""
        kind: Any = type(self)
        options: tuple[object, ...] = _options_of(kind)(self)
        return options

    def joined(self, others: Sequence[ScanGroup]) -> ScanGroup:
        """Returns this group and others with the same `batch_key` as one group."""
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
        """The group's share of a batch: its number of queries, scaled up for many hits or expensive scoring."""
        work = 1 + (self.k + len(self.exclude_keys)) // 100
        if self.scoring is Scoring.ASYMMETRIC:
            work *= _ASYMMETRIC_WORK
        if self.scoring is Scoring.RERANK_FEATURES and self.inputs is not None:
            work += self.k * self.inputs.shape[1] // _FEATURES_PER_WORK
        room = 0 if self.inputs is None else self.inputs.nbytes // _INPUT_BYTES
        return len(self.codes) * work + room + size_of(self.filter) // _FILTER_BYTES


@dataclasses.dataclass(slots=True)
class ScanResult:
    """One shard's answer to a scan group.

    Attributes:
        hits: Each query's hits ordered by (distance, id, key), or by (rank, id, key) for asymmetric scoring.
        rows: Live rows of the searched slots when the scan started.
        unknown_fields: Fields that the filter names and that no record on this shard ever had.
        known_fields: Some fields that records on this shard have had, if there are unknown ones: similar ones
            first.
        stale_ms: Every write acknowledged at least this long ago was searched.
    """

    hits: HitTable
    rows: int
    unknown_fields: Sequence[str] = ()
    known_fields: Sequence[str] = ()
    stale_ms: int = 0


@functools.cache
def _options_of(kind: Any) -> Callable[[ScanGroup], Any]:
    """Returns a function that returns a group's options."""
    names = (field.name for field in dataclasses.fields(kind) if field.name not in _PER_QUERY)
    return operator.attrgetter(*names)


@dataclasses.dataclass(frozen=True, slots=True)
class WriteResult:
    """One replica's answer to a write.

    Attributes:
        existed: Per record, whether a live record with its key was stored before.
        superseded: The records that were not stored because a higher version is: by index, that version.
        newest_version: The highest version in the collection.
        forward_to: By slot, another partition that must store the slot's records too.
        refused: Indices of records that were not stored because the shard does not accept their slots.
        is_repeated: Whether an earlier attempt failed, and may have stored them nevertheless.
    """

    existed: Sequence[bool]
    superseded: Mapping[int, int]
    newest_version: int
    forward_to: Mapping[int, int] = dataclasses.field(default_factory=dict)
    refused: frozenset[int] = frozenset()
    is_repeated: bool = False
