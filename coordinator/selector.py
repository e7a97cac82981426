"""Owns the reads of the records that match a filter: counts, pages of a scroll and facets, merged over all
partitions.

A page's place in the scroll is its last record's key. All partitions list their records in the order of (id, key),
and a key determines its id, so the place means the same whatever has been written or moved, and on any
coordinator."""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from coordinator import cursors
from coordinator.catalog import Catalog
from coordinator.cluster import Cluster
from coordinator.coverage import CoverageTracker, require_acceptable
from coordinator.reader import Reader
from coordinator.routing import Share
from coordinator.settling import settled
from lookalike.cluster.select import CountOf, FacetCounter, FacetsOf, ListOf, Question, Selected, value_order
from lookalike.cluster.slots import slots_from_bytes, slots_to_bytes
from lookalike.cluster.unknown_fields import warnings_of
from lookalike.model.errors import LookalikeError
from lookalike.model.filters import Filter
from lookalike.model.matching import Comparable, matcher
from lookalike.model.records import (
    SLOTS,
    Coverage,
    VersionedRecord,
    check_key,
    record_id,
    slot_of,
)
from lookalike.model.search_options import Consistency
from lookalike.model.ttl import Expired
from lookalike.server.shard_client import ShardClient

# The most that the records of a page take.
MAX_PAGE_BYTES = 16 * 1024 * 1024
# A page of up to so many records is requested in full from every partition.
_SMALL_PAGE = 1_000
_CURSOR_MARK = b"1"

# A record's place in a scroll: its id and its key.
_Order = tuple[int, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """The answer for each share of the slots."""

    shares: Sequence[Share]
    parts: Sequence[Selected | LookalikeError]


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Records in the order of (id, key).

    Attributes:
        records: The records.
        cursor: Where the next page starts; empty after the last.
        warnings: On the first page, of fields of the filter that no record has.
    """

    records: Sequence[VersionedRecord]
    cursor: str
    warnings: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Facets:
    """The most frequent values of an attribute.

    Attributes:
        top: The values and their counts, most frequent first.
        other_values: The number of values that are left out.
        other_count: The sum of their counts.
        coverage: Which partitions were read.
        warnings: Of fields that no record has.
    """

    top: Sequence[tuple[Comparable, int]]
    other_values: int
    other_count: int
    coverage: Coverage
    warnings: Sequence[str]


class Selector:
    """Reads the records that match a filter. Deadlines are times of the running loop's clock."""

    def __init__(self, cluster: Cluster, catalog: Catalog, reader: Reader) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._reader = reader
        self._coverage = CoverageTracker()

    async def count(
        self, collection: str, condition: Filter | None, allow_partial: bool, deadline: float
    ) -> tuple[int, Coverage, list[str]]:
        """Returns the number of records, how much of the collection it covers, and warnings of fields that no
        record has.

        Raises:
            NotFound: If the collection does not exist.
            PartitionUnavailable, DeadlineExceeded: If a partition does not answer and a partial answer is not
            allowed.
        """
        question = Question(collection, condition, CountOf())
        parts, coverage = await self.answers(question, allow_partial, deadline)
        return sum(part.count for part in parts), coverage, unknown_fields(parts, coverage)

    async def facets(
        self,
        collection: str,
        attribute: str,
        condition: Filter | None,
        limit: int,
        allow_partial: bool,
        deadline: float,
    ) -> Facets:
        """Returns the `limit` most frequent values. Raises what `count` raises, and InvalidRequest if the
        attribute has too many values."""
        question = Question(collection, condition, FacetsOf(attribute))
        parts, coverage = await self.answers(question, allow_partial, deadline)
        counter = FacetCounter(attribute)
        for part in parts:
            for value, count in part.facets.items():
                counter.add(value, count)
        ranked = sorted(counter.counts.items(), key=lambda facet: (-facet[1], *value_order(facet[0])))
        others = ranked[limit:]
        return Facets(
            ranked[:limit],
            len(others),
            sum(count for _, count in others),
            coverage,
            unknown_fields(parts, coverage),
        )

    async def page(
        self,
        collection: str,
        condition: Filter | None,
        wanted: ListOf,
        cursor: str,
        consistency: Consistency,
        deadline: float,
        expired: Expired | None = None,
    ) -> Page:
        """Returns the next records of a scroll. Never partial.

        Args:
            collection: The collection's name.
            condition: The filter.
            wanted: How many records, and which parts of them.
            cursor: The cursor of the page before; empty for the first.
            consistency: How many replicas of each partition are read.
            deadline: When to give up.
            expired: List the records that have expired instead of those that match a filter.

        Raises:
            InvalidRequest: If the cursor is not valid.
            NotFound: If the collection does not exist.
            PartitionUnavailable, DeadlineExceeded: If a partition does not answer.
        """
        after = key_of_cursor(cursor)
        await self._catalog.layout(collection, deadline)
        records: list[VersionedRecord] = []
        size = 0
        warnings: list[str] = []
        while True:
            rest = dataclasses.replace(wanted, after=after, limit=wanted.limit - len(records))
            found, has_more, unknown = await self._list(
                collection, condition, rest, consistency, MAX_PAGE_BYTES - size, deadline, expired
            )
            assert found or not has_more, "a list that has more ends with a record"
            warnings += unknown
            after = found[-1].key if found else ""
            if consistency == "quorum":
                found = await self._current(collection, condition, found, wanted, deadline)
            records += found
            size += sum(record.size for record in found)
            if not has_more or len(records) >= wanted.limit or size >= MAX_PAGE_BYTES:
                return Page(records, cursor_after(after) if has_more else "", warnings)

    async def _list(
        self,
        collection: str,
        condition: Filter | None,
        wanted: ListOf,
        consistency: Consistency,
        max_bytes: int,
        deadline: float,
        expired: Expired | None,
    ) -> tuple[list[VersionedRecord], bool, list[str]]:
        """The next records that any of the replicas lists, each once; whether there are more; and, for the first
        records, warnings of fields that no record has."""
        start = slot_of(record_id(wanted.after)) if wanted.after else 0
        if consistency == "quorum":
            # A record that one replica lists may be outdated: `_current` needs the attributes, so they count here.
            wanted = dataclasses.replace(wanted, include_attributes=True)

        async def ask(deadline: float) -> Answers:
            shares = _from_slot(start, self._cluster.routing.shares)
            limit = _limit_per_share(wanted.limit, len(shares))
            question = Question(collection, condition, dataclasses.replace(wanted, limit=limit), expired)
            parts = await asyncio.gather(
                *(self._list_share(question, share, consistency, deadline) for share in shares)
            )
            return Answers(shares, parts)

        answers = await settled(self._cluster, self._catalog, collection, deadline, ask)
        parts = [part for part in answers.parts if isinstance(part, Selected)]
        if missing := [part for part in answers.parts if isinstance(part, LookalikeError)]:
            coverage = CoverageTracker().coverage(collection, answers)
            require_acceptable(missing, False, coverage, "retry, with the same cursor")
        # Later pages do not ask all partitions, and a field may be known to the others only.
        warnings = [] if wanted.after else warnings_of(parts)
        return *merged(parts, wanted.limit, max_bytes), warnings

    async def _list_share(
        self, question: Question, share: Share, consistency: Consistency, deadline: float
    ) -> Selected | LookalikeError:
        group = self._cluster.group(share.partition)
        count = group.majority if consistency == "quorum" else 1

        async def ask(client: ShardClient) -> Selected:
            return await client.select(question, share.data, deadline)

        try:
            answers = [answer for _, answer in await group.some(ask, count, deadline)]
        except LookalikeError as error:
            return error
        if len(answers) == 1:
            return answers[0]
        records, more = merged(answers, question.kind.limit if isinstance(question.kind, ListOf) else 0)
        unknown = set.intersection(*(set(answer.unknown_fields) for answer in answers))
        return dataclasses.replace(answers[0], records=records, more=more, unknown_fields=sorted(unknown))

    async def _current(
        self,
        collection: str,
        condition: Filter | None,
        listed: Sequence[VersionedRecord],
        wanted: ListOf,
        deadline: float,
    ) -> list[VersionedRecord]:
        """Those of the listed records that match in their newest version on a majority, in that version."""
        keys = [record.key for record in listed]
        if not keys:
            return []
        is_match = matcher(condition) if condition is not None else lambda attributes, key: True
        records = await self._reader.fetch(
            collection, keys, "quorum", deadline, include_thumbnails=wanted.include_thumbnails
        )
        return [
            dataclasses.replace(
                record,
                code=record.code if wanted.include_codes else b"",
                attributes=record.attributes if wanted.include_attributes else "{}",
            )
            for record in records
            if is_match(json.loads(record.attributes), record.key)
        ]

    async def answers(
        self, question: Question, allow_partial: bool, deadline: float
    ) -> tuple[list[Selected], Coverage]:
        """The answers of all partitions, from one replica each."""

        async def ask_share(share: Share, deadline: float) -> Selected | LookalikeError:
            try:
                return await self._cluster.group(share.partition).first(
                    lambda client: client.select(question, share.data, deadline), deadline
                )
            except LookalikeError as error:
                return error

        async def ask(deadline: float) -> Answers:
            shares = self._cluster.routing.shares
            return Answers(shares, await asyncio.gather(*(ask_share(share, deadline) for share in shares)))

        await self._catalog.layout(question.collection, deadline)
        answers = await settled(self._cluster, self._catalog, question.collection, deadline, ask)
        coverage = self._coverage.coverage(question.collection, answers)
        parts = [part for part in answers.parts if isinstance(part, Selected)]
        if missing := [part for part in answers.parts if isinstance(part, LookalikeError)]:
            require_acceptable(missing, allow_partial, coverage)
        return parts, coverage


def unknown_fields(parts: Sequence[Selected], coverage: Coverage) -> list[str]:
    """The warnings of fields that no record has. None unless all partitions answered: another may know them."""
    return warnings_of(parts) if coverage.complete else []


def cursor_after(key: str) -> str:
    """Returns the cursor of a page that starts after this key."""
    return cursors.seal(_CURSOR_MARK, key.encode())


def key_of_cursor(cursor: str) -> str:
    """Returns the key that a page starts after; empty for an empty cursor. Raises InvalidRequest for a text that
    is not a cursor."""
    if not cursor:
        return ""
    key = cursors.unseal(_CURSOR_MARK, cursor, "cursor", "a page")
    return check_key(key.decode(errors="replace"))


def _from_slot(start: int, shares: Sequence[Share]) -> list[Share]:
    """The shares, restricted to the slots from `start` on."""
    restricted = []
    for share in shares:
        slots = slots_from_bytes(share.data) & (np.arange(SLOTS) >= start)
        if slots.any():
            restricted.append(Share(share.partition, slots_to_bytes(slots), int(slots.sum())))
    return restricted


def _limit_per_share(limit: int, shares: int) -> int:
    """How many records to request from each partition for a page. Slots, and so records, are spread evenly, so for
    a large page each partition's part and a margin suffice; `page` asks again for what is missing."""
    return limit if limit <= _SMALL_PAGE else min(limit, limit // max(1, shares) + limit // 20 + 100)


def merged(
    parts: Sequence[Selected], limit: int, max_bytes: int = MAX_PAGE_BYTES
) -> tuple[list[VersionedRecord], bool]:
    """Merges lists, each ordered by (id, key), into their first `limit` records, each key once. A list that has
    more records may have them after its last one only, so the merged list ends at the first such last one."""
    ends: list[_Order] = []
    by_order: dict[_Order, VersionedRecord] = {}
    for part in parts:
        order: _Order = (-1, "")
        for record in part.records:
            order = (record_id(record.key), record.key)
            by_order.setdefault(order, record)
        if part.more:
            ends.append(order)
    orders = sorted(by_order)
    if ends:
        orders = orders[: bisect.bisect_right(orders, min(ends))]
    has_more = bool(ends) or len(orders) > limit
    records: list[VersionedRecord] = []
    size = 0
    for order in orders[:limit]:
        record = by_order[order]
        size += record.size
        if records and size > max_bytes:
            return records, True
        records.append(record)
    return records, has_more
