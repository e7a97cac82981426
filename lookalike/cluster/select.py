"""Owns the questions of a coordinator about the records that match a filter, and a shard's answers, as plain
data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lookalike.cluster.listed import Listed
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import Filter
from lookalike.model.matching import Comparable

# Limits on the values of an attribute that are counted. They hold for one shard's answer and for the merged
# answer, so whether a request exceeds them does not depend on the number of shards.
MAX_FACETS = 100_000
MAX_FACET_BYTES = 16 * 1024 * 1024

FacetCounts = Mapping[Comparable, int]


@dataclasses.dataclass(frozen=True, slots=True)
class CountOf:
    """How many records match."""


@dataclasses.dataclass(frozen=True, slots=True)
class ListOf:
    """Which records match, in the order of (id, key).

    Attributes:
        after: List the records after this key; empty for the first.
        limit: The number of records to list.
    """

    after: str
    limit: int
    include_attributes: bool = False
    include_codes: bool = False
    include_thumbnails: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FacetsOf:
    """How many records have each value of an attribute."""

    attribute: str


Kind = CountOf | ListOf | FacetsOf


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about the live records of a collection that match a filter; all records if it is None."""

    collection: str
    filter: Filter | None
    kind: Kind


@dataclasses.dataclass(frozen=True, slots=True)
class Selected:
    """One shard's answer to a question.

    Attributes:
        rows: Live rows of the slots that were asked for.
        count: For CountOf, the number of records.
        listed: For ListOf, the records.
        more: For ListOf, whether there are further records after the last one.
        facets: For FacetsOf, the number of records with each value.
        unknown_fields: As in `ScanResult`.
        known_fields: As in `ScanResult`.
        stale_ms: As in `ScanResult`.
    """

    rows: int = 0
    count: int = 0
    listed: Listed | None = None
    more: bool = False
    facets: FacetCounts = dataclasses.field(default_factory=dict)
    unknown_fields: Sequence[str] = ()
    known_fields: Sequence[str] = ()
    stale_ms: int = 0


class FacetCounter:
    """Adds up the counts of values. `add` raises InvalidRequest when there are too many values."""

    def __init__(self, attribute: str) -> None:
        self.counts: dict[Comparable, int] = {}
        self._attribute = attribute
        self._bytes = 0

    def add(self, value: Comparable, count: int = 1) -> None:
        before = self.counts.get(value)
        if before is None:
            self._bytes += len(value[1].encode()) if isinstance(value[1], str) else 8
            if len(self.counts) >= MAX_FACETS or self._bytes > MAX_FACET_BYTES:
                raise InvalidRequest(
                    f"attribute: {self._attribute!r} has over {MAX_FACETS:,} values, or they take over"
                    f" {MAX_FACET_BYTES:,} bytes; restrict the records with a filter"
                )
        self.counts[value] = (before or 0) + count
