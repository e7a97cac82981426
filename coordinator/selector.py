"""Owns the reads of the records that match a filter: counts, pages of a scroll and facets, merged over all
partitions.

A page's place in the scroll is its last record's key. All partitions list their records in the order of (id, key),
and a key determines its id, so the place means the same whatever has been written or moved, and on any
coordinator."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence

import numpy as np

from coordinator import cursors
from coordinator.catalog import Catalog
from coordinator.cluster import Cluster
from coordinator.coverage import CoverageTracker, require_acceptable
from coordinator.reader import Reader
from coordinator.routing import Share
from coordinator.settling import settled
from lookalike.cluster.listed import Listed, MergedList, merge
from lookalike.cluster.select import CountOf, FacetCounter, FacetsOf, ListOf, Question, Selected, value_order
from lookalike.cluster.slots import slots_from_bytes, slots_to_bytes
from lookalike.cluster.unknown_fields import warnings_of
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.filters import Filter
from lookalike.model.matching import Comparable, matcher
from lookalike.model.records import (
    MAX_BATCH_RECORDS,
    MAX_PAGE_RECORDS,
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


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """Records in the order of (id, key).

    Attributes:
        listed: The records.
        cursor: Where the next page starts; empty after the last.
        warnings: On the first page, of fields of the filter that no record has.
    """

    listed: Listed
    cursor: str
    warnings: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """The answer for each share of the slots."""

    shares: Sequence[Share]
    parts: Sequence[Selected | LookalikeError]


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
        self,
        collection: str,
        condition: Filter | None,
        allow_partial: bool,
        deadline: float,
        consistency: Consistency = "one",
    ) -> tuple[int, Coverage, list[str]]:
        """Returns the number of records, how much of the collection it covers, and warnings of fields that no
        record has. At `quorum`, it includes every write acknowledged before, and is never partial.

        Raises:
            InvalidRequest: If a partial answer is allowed at `quorum`.
            NotFound: If the collection does not exist.
            PartitionUnavailable, DeadlineExceeded: If a partition does not answer and a partial answer is not
            allowed.
        """
        if allow_partial and consistency == "quorum":
            raise InvalidRequest("allow_partial: a count at quorum is never partial; leave one of the two out")
        question = Question(collection, condition, CountOf())
        parts, coverage = await self.answers(question, allow_partial, deadline)
        count = sum(part.count for part in parts)
        if consistency == "quorum" and not self._is_on_all_replicas():
            count = await self._count_listed(collection, condition, deadline)
            coverage = dataclasses.replace(coverage, stale_ms=0)
        return count, coverage, unknown_fields(parts, coverage)

    def _is_on_all_replicas(self) -> bool:
        """Whether every acknowledged write is on all replicas, so that each of them may answer at `quorum`."""
        groups = [self._cluster.group(share.partition) for share in self._cluster.routing.shares]
        return all(group.writes_needed == len(group.replicas) for group in groups)

    async def _count_listed(self, collection: str, condition: Filter | None, deadline: float) -> int:
        """Counts the records that a scroll at `quorum` returns."""
        count, cursor = 0, ""
        while True:
            wanted = ListOf("", MAX_PAGE_RECORDS)
            page = await self.page(collection, condition, wanted, cursor, "quorum", deadline)
            count, cursor = count + len(page.listed), page.cursor
            if not cursor:
                return count

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
        pages: list[Listed] = []
        warnings: list[str] = []
        count = size = 0
        while True:
            rest = dataclasses.replace(wanted, after=after, limit=wanted.limit - count)
            found = await self._list(
                collection, condition, rest, consistency, MAX_PAGE_BYTES - size, warnings, deadline, expired
            )
            assert len(found.listed) or not found.more, "a list that has more ends with a record"
            after = found.listed.last_key() if found.more else ""
            if not found.agreed.all():
                pages.append(await self._current(collection, condition, found, wanted, deadline))
            else:
                pages.append(found.listed)
            count += len(pages[-1])
            size += int(pages[-1].sizes.sum())
            # Most of a large page is enough.
            if not found.more or 2 * count >= wanted.limit or size >= MAX_PAGE_BYTES:
                return Page(Listed.concat(pages), cursor_after(after) if found.more else "", warnings)

    async def _list(
        self,
        collection: str,
        condition: Filter | None,
        wanted: ListOf,
        consistency: Consistency,
        max_bytes: int,
        warnings: list[str],
        deadline: float,
        expired: Expired | None,
    ) -> MergedList:
        """The next records that any of the replicas lists, each once. For the first records, adds warnings of
        fields that no record has to `warnings`."""
        start = slot_of(record_id(wanted.after)) if wanted.after else 0
        disputed = set[str]()

        async def ask(deadline: float) -> Answers:
            disputed.clear()
            shares = _from_slot(start, self._cluster.routing.shares)
            slots = sum(share.slots for share in shares)
            parts = await asyncio.gather(
                *(
                    self._list_share(
                        Question(collection, condition, _part_of(wanted, share.slots / slots), expired),
                        share,
                        consistency,
                        disputed,
                        deadline,
                    )
                    for share in shares
                )
            )
            return Answers(shares, parts)

        answers = await settled(self._cluster, self._catalog, collection, deadline, ask)
        parts = [part for part in answers.parts if isinstance(part, Selected)]
        if missing := [part for part in answers.parts if isinstance(part, LookalikeError)]:
            coverage = CoverageTracker().coverage(collection, answers.shares, answers.parts)
            require_acceptable(missing, False, coverage, "retry, with the same cursor")
        if not wanted.after:
            # Later pages do not ask all partitions, and a field may be known to the others only.
            warnings += warnings_of(parts)
        lists = [part.listed for part in parts if part.listed is not None]
        more = [part.more for part in parts]
        whole = await _in_thread_if_large(lists, lambda: merge(lists, more, wanted.limit, max_bytes))
        if not disputed:
            return whole
        agreed = np.array([key not in disputed for key in whole.listed.keys.strings()])
        return dataclasses.replace(whole, agreed=agreed)

    async def _list_share(
        self,
        question: Question,
        share: Share,
        consistency: Consistency,
        disputed: set[str],
        deadline: float,
    ) -> Selected | LookalikeError:
        """One list of the share, merged from the replicas asked. Adds the keys that these do not all list in one
        version to `disputed`."""
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
        lists = [answer.listed for answer in answers if answer.listed is not None]
        more = [answer.more for answer in answers]
        merged = await _in_thread_if_large(
            lists, lambda: merge(lists, more, sys.maxsize, sys.maxsize, copies=len(lists))
        )
        disputed.update(merged.listed.take(np.flatnonzero(~merged.agreed)).keys.strings())
        unknown = set.intersection(*(set(answer.unknown_fields) for answer in answers))
        return dataclasses.replace(
            answers[0], listed=merged.listed, more=merged.more, unknown_fields=sorted(unknown)
        )

    async def _current(
        self, collection: str, condition: Filter | None, found: MergedList, wanted: ListOf, deadline: float
    ) -> Listed:
        """The records that match in their newest version on a majority, in that version. Those that all replicas
        listed in one version are read already."""
        keys = found.listed.take(np.flatnonzero(~found.agreed)).keys.strings()
        is_match = matcher(condition) if condition is not None else lambda attributes, key: True
        records: list[VersionedRecord] = []
        for start in range(0, len(keys), MAX_BATCH_RECORDS):
            records += await self._reader.fetch(
                collection,
                keys[start : start + MAX_BATCH_RECORDS],
                "quorum",
                deadline,
                include_thumbnails=wanted.include_thumbnails,
            )
        current = [
            dataclasses.replace(
                record,
                code=record.code if wanted.include_codes else b"",
                attributes=record.attributes if wanted.include_attributes else "",
            )
            for record in records
            if is_match(json.loads(record.attributes), record.key)
        ]
        agreed = found.listed.take(np.flatnonzero(found.agreed))
        return merge([agreed, Listed.of(current)], [False, False], sys.maxsize, sys.maxsize).listed

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
        coverage = self._coverage.coverage(question.collection, answers.shares, answers.parts)
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


def _part_of(wanted: ListOf, share: float) -> ListOf:
    """What to request from a partition that has this share of the slots. Ids are spread evenly, so for a large
    page each partition's part and six standard deviations suffice; `page` asks again for what is missing."""
    expected = wanted.limit * share
    needed = wanted.limit if wanted.limit <= _SMALL_PAGE else math.ceil(expected + 6 * math.sqrt(expected))
    return dataclasses.replace(wanted, limit=min(wanted.limit, needed))


async def _in_thread_if_large(lists: Sequence[Listed], call: Callable[[], MergedList]) -> MergedList:
    """Runs a merge, in a thread if it would hold up other requests."""
    return await asyncio.to_thread(call) if sum(map(len, lists)) > _SMALL_PAGE else call()
