"""Owns writes that depend on the stored record: changes of some attributes, and deletions by a filter.

A change reads the newest version of a record on a majority, reserves the key for a higher version on as many
replicas as a write needs, and then stores the whole changed record under that version. The reservation fails if a
replica has another version than the one that was read; then the record is read and changed again. While it holds,
other writers of the key take higher versions. So a change never undoes a write that it has not read
(docs/CONSISTENCY.md)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from coordinator.attempts import attempts
from coordinator.catalog import Catalog, Layout
from coordinator.clock import Clock
from coordinator.conditional import ConditionalWrite, ConditionalWriter, checked_versions
from coordinator.reader import Reader
from coordinator.selector import Page, Selector
from coordinator.write_router import Fate, WriteRouter
from lookalike.cluster.select import ListOf
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.filters import Filter
from lookalike.model.matching import matcher
from lookalike.model.records import DEFAULT_PAGE, VersionedRecord, attributes_text, check_key, parse_attributes
from lookalike.model.ttl import Expired
from lookalike.server.observe import metrics

# Records that are read and stored together. If they are too large for a message, fewer are.
_BATCH = 500

# The record to store instead of a stored one, with any version; None to leave it as it is.
Decide = Callable[[VersionedRecord], VersionedRecord | None]


@dataclasses.dataclass(frozen=True, slots=True)
class AttributeChange:
    """Attributes to set, each as a whole, and names of attributes to remove."""

    values: Mapping[str, Any]
    removed: Collection[str]

    @classmethod
    def parse(cls, text: str, removed: Sequence[str]) -> AttributeChange:
        """Raises InvalidRequest unless the text is a JSON object and the two name different attributes, at least
        one in all."""
        values = parse_attributes(text)
        attributes_text(values)
        if both := sorted(values.keys() & set(removed)):
            raise InvalidRequest(f"remove: {both[0]!r} is also set; name it once")
        if not values and not removed:
            raise InvalidRequest("attributes: none to set or remove; name at least one")
        return cls(values, frozenset(removed))

    def of(self, record: VersionedRecord) -> VersionedRecord:
        """Returns the record with its attributes changed."""
        attributes = {**json.loads(record.attributes), **self.values}
        kept = {name: value for name, value in attributes.items() if name not in self.removed}
        try:
            return dataclasses.replace(record, attributes=attributes_text(kept))
        except InvalidRequest as error:
            raise InvalidRequest(f"record {record.key!r}: {error.message}") from None


@dataclasses.dataclass(frozen=True, slots=True)
class Changed:
    """What a change by filter did.

    Attributes:
        count: The number of records changed.
        cursor: Where to continue; empty after the last record.
        warnings: As in `Page`.
    """

    count: int
    cursor: str
    warnings: Sequence[str]


class Changer:
    """Changes stored records. Deadlines are times of the running loop's clock."""

    def __init__(
        self,
        catalog: Catalog,
        reader: Reader,
        selector: Selector,
        router: WriteRouter,
        clock: Clock,
        conditional: ConditionalWriter,
    ) -> None:
        """Creates a changer.

        Args:
            catalog: The collections.
            reader: Reads records by key.
            selector: Lists the records that match a filter.
            router: Stores records with versions of `clock`.
            clock: Issues versions for changes only: other writers must not take a change for a later write of
                their own coordinator, which would make theirs superfluous.
            conditional: Stores records with the same router and clock.
        """
        self._conditional = conditional
        self._catalog = catalog
        self._reader = reader
        self._selector = selector
        self._router = router
        self._clock = clock

    async def set_attributes(
        self,
        collection: str,
        keys: Sequence[str],
        change: AttributeChange,
        deadline: float,
        if_versions: Sequence[int] = (),
    ) -> int:
        """Changes the attributes of the records that exist. Returns their number.

        if_versions: The version that each record must have; empty to change whatever is stored. See
            `coordinator.conditional`."""
        unique = list(dict.fromkeys(check_key(key) for key in keys))
        if if_versions:
            checked_versions("if_versions", if_versions, keys, 1)
            return await self._change_versions(collection, keys, change, if_versions, deadline)
        return await self._change_all(collection, unique, change.of, "set_attributes", deadline)

    async def set_matching(
        self,
        collection: str,
        condition: Filter,
        change: AttributeChange,
        limit: int,
        cursor: str,
        deadline: float,
    ) -> Changed:
        """Changes the attributes of the next `limit` records that match."""
        page = await self._matching(collection, condition, limit, cursor, deadline)

        is_match = matcher(condition)

        def decide(record: VersionedRecord) -> VersionedRecord | None:
            return change.of(record) if is_match(json.loads(record.attributes), record.key) else None

        return await self._change_page(collection, page, decide, "set_attributes", deadline)

    async def delete_matching(
        self, collection: str, condition: Filter, limit: int, cursor: str, deadline: float
    ) -> Changed:
        """Deletes the next `limit` records that match."""
        page = await self._matching(collection, condition, limit, cursor, deadline)

        is_match = matcher(condition)

        def decide(record: VersionedRecord) -> VersionedRecord | None:
            is_doomed = is_match(json.loads(record.attributes), record.key)
            return VersionedRecord(record.key, None, "", record.version) if is_doomed else None

        return await self._change_page(collection, page, decide, "delete", deadline)

    async def delete_expired(
        self, collection: str, expired: Expired, cursor: str, deadline: float
    ) -> tuple[int, str]:
        """Deletes the next records that have expired. Returns what `set_matching` returns."""
        wanted = ListOf("", DEFAULT_PAGE)
        page = await self._selector.page(collection, None, wanted, cursor, "quorum", deadline, expired)

        def decide(record: VersionedRecord) -> VersionedRecord | None:
            is_doomed = expired.ttl.is_expired(record.version, json.loads(record.attributes), expired.now_ms)
            return VersionedRecord(record.key, None, "", record.version) if is_doomed else None

        keys = page.listed.keys.strings()
        return await self._change_all(collection, keys, decide, "expire", deadline), page.cursor

    async def _change_versions(
        self,
        collection: str,
        keys: Sequence[str],
        change: AttributeChange,
        if_versions: Sequence[int],
        deadline: float,
    ) -> int:
        def new(stored: VersionedRecord | None) -> VersionedRecord:
            assert stored is not None, "a record with a version exists"
            return change.of(stored)

        writes = [ConditionalWrite(key, version, new) for key, version in zip(keys, if_versions, strict=True)]
        await self._catalog.in_layout(
            collection,
            deadline,
            lambda layout: self._conditional.store(collection, layout, writes, deadline),
        )
        label = self._catalog.label(collection)
        metrics.RECORDS_WRITTEN.labels(label, "set_attributes", "acknowledged").inc(len(writes))
        return len(writes)

    async def _matching(
        self, collection: str, condition: Filter, limit: int, cursor: str, deadline: float
    ) -> Page:
        return await self._selector.page(collection, condition, ListOf("", limit), cursor, "quorum", deadline)

    async def _change_page(
        self, collection: str, page: Page, decide: Decide, operation: str, deadline: float
    ) -> Changed:
        keys = page.listed.keys.strings()
        count = await self._change_all(collection, keys, decide, operation, deadline)
        return Changed(count, page.cursor, page.warnings)

    async def _change_all(
        self, collection: str, keys: Sequence[str], decide: Decide, operation: str, deadline: float
    ) -> int:
        changed = done = 0
        try:
            for start in range(0, len(keys), _BATCH):
                part = keys[start : start + _BATCH]
                changed += await self._change_part(collection, part, decide, deadline)
                done += len(part)
            return changed
        finally:
            label = self._catalog.label(collection)
            metrics.RECORDS_WRITTEN.labels(label, operation, "acknowledged").inc(changed)
            metrics.RECORDS_WRITTEN.labels(label, operation, "failed").inc(len(keys) - done)

    async def _change_part(self, collection: str, keys: Sequence[str], decide: Decide, deadline: float) -> int:
        try:
            return await self._catalog.in_layout(
                collection, deadline, lambda layout: self._change(collection, layout, keys, decide, deadline)
            )
        except InvalidRequest:
            if len(keys) == 1:
                raise
        # Perhaps the records are too large to be read at once.
        half = len(keys) // 2
        first = await self._change_part(collection, keys[:half], decide, deadline)
        return first + await self._change_part(collection, keys[half:], decide, deadline)

    async def _change(
        self, collection: str, layout: Layout, keys: Sequence[str], decide: Decide, deadline: float
    ) -> int:
        """Changes the records that exist, each on the basis of its newest version. Returns how many were
        changed."""
        changed = 0
        pending = keys
        async for _ in attempts(collection):
            stored = await self._reader.fetch(
                collection, pending, "quorum", deadline, layout.indexing.features_text, include_thumbnails=True
            )
            decided = [(record, new) for record in stored if (new := decide(record)) is not None]
            for record, _ in decided:
                self._clock.observe(record.version)
            results = await self._router.store_over(
                collection,
                layout,
                [dataclasses.replace(new, version=self._clock.next()) for _, new in decided],
                [record.version for record, _ in decided],
                deadline,
            )
            for result in results:
                if isinstance(result, LookalikeError):
                    raise result
            changed += results.count(Fate.STORED)
            pending = [
                record.key
                for (record, _), result in zip(decided, results, strict=True)
                if result is not Fate.STORED
            ]
            if not pending:
                break
        return changed
