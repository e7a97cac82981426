"""Owns the questions of a coordinator about the records that match a filter, and a shard's answers, as plain
data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lookalike.cluster.hits import HitTable
from lookalike.cluster.listed import Listed
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import Filter, Scalar
from lookalike.model.matching import Comparable
from lookalike.model.ttl import Expired

# Limits on the values of an attribute that are counted. They hold for one shard's answer and for the merged
# answer, so whether a request exceeds them does not depend on the number of shards.
MAX_FACETS = 100_000
MAX_FACET_BYTES = 16 * 1024 * 1024

_KIND_ORDER = {"truth": 0, "number": 1, "text": 2}

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


@dataclasses.dataclass(frozen=True, slots=True)
class Near:
    """Distances of records to a code, and an attribute whose values are groups.

    Attributes:
        attribute: A record is in the group of each value that it has in this attribute.
        fingerprint: The code's code space.
        code: bits/8 bytes.
        max_distance: The largest distance of a record, in bits.
        exclude_keys: Records with these keys are left out.
    """

    attribute: str
    fingerprint: str
    code: bytes
    max_distance: int | None = None
    exclude_keys: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class GroupsOf:
    """Which k groups have the nearest records, in the order of `GroupPlace`."""

    near: Near
    k: int


@dataclasses.dataclass(frozen=True, slots=True)
class MembersOf:
    """The `size` nearest records of each group that `values` names, in the order of (distance, id, key)."""

    near: Near
    values: tuple[Comparable, ...]
    size: int
    include_attributes: bool = False


Kind = CountOf | ListOf | FacetsOf | GroupsOf | MembersOf


@dataclasses.dataclass(frozen=True, slots=True)
class GroupPlace:
    """A group, and the distance and id of its nearest record."""

    value: Comparable
    distance: int
    id: int

    @property
    def order(self) -> tuple[int, int, int, Scalar]:
        """The sort key of groups: false before true, then numbers, then text."""
        return self.distance, self.id, *value_order(self.value)


def value_order(value: Comparable) -> tuple[int, Scalar]:
    """The sort key of the values of an attribute: false before true, then numbers, then text, each ascending."""
    return _KIND_ORDER[value[0]], value[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """A question about the live records of a collection that match a filter; all records if it is None.

    Attributes:
        expired: Ask about the records that have expired instead.
    """

    collection: str
    filter: Filter | None
    kind: Kind
    expired: Expired | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Selected:
    """One shard's answer to a question.

    Attributes:
        rows: Live rows of the slots that were asked for.
        count: For CountOf, the number of records.
        listed: For ListOf, the records.
        more: For ListOf, whether there are further records after the last one.
        facets: For FacetsOf, the number of records with each value.
        groups: For GroupsOf, the groups.
        hits: For MembersOf, the hits of each group, as if the groups were queries.
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
    groups: Sequence[GroupPlace] = ()
    hits: HitTable | None = None


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
