"""Owns copying records from one collection to another of the same code space, page by page.

A page's records are read from a majority, with features and thumbnails, and each is stored if the target has
neither a later write nor a deletion of its key. So pages can be repeated, and a copy can run beside other
writers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Sequence

from coordinator.attempts import attempts
from coordinator.catalog import Catalog, Layout
from coordinator.clock import Clock
from coordinator.names import Names
from coordinator.reader import Reader
from coordinator.selector import Selector
from coordinator.write_router import Fate, WriteRouter
from lookalike.cluster.select import ListOf
from lookalike.model.errors import AlreadyExists, CodeSpaceMismatch, InvalidRequest, LookalikeError, NotFound
from lookalike.model.filters import Filter
from lookalike.model.records import CopiedPage, VersionedRecord
from lookalike.server.observe import metrics

# Records that are read and stored together. If they are too large for a message, fewer are.
_BATCH = 500


class Copier:
    """Copies records. Deadlines are times of the running loop's clock."""

    def __init__(
        self,
        names: Names,
        catalog: Catalog,
        reader: Reader,
        selector: Selector,
        router: WriteRouter,
        clock: Clock,
    ) -> None:
        """Creates a copier. `router` and `clock` are as in `Changer`."""
        self._names = names
        self._catalog = catalog
        self._reader = reader
        self._selector = selector
        self._router = router
        self._clock = clock

    async def prepare(self, source: str, target: str, deadline: float) -> None:
        """Creates the target if it does not exist: with the source's code space, indexing and hash file.

        Args:
            source: The name of the collection to copy from.
            target: The name of the collection to copy to.
            deadline: When to give up.

        Raises:
            InvalidRequest: If both are the same collection.
            NotFound: If the source does not exist.
        """
        stored = await self._names.stored(source, deadline)
        found = await self._catalog.get(stored, deadline)
        with contextlib.suppress(NotFound):
            existing = await self._names.stored(target, deadline)
            if existing == stored:
                raise InvalidRequest(f"target: {target!r} is the collection to copy from; name another one")
            await self._catalog.get(existing, deadline)
            return
        hash_file = await self._catalog.hash_file(stored, deadline)
        # Another job may create it at the same moment.
        with contextlib.suppress(AlreadyExists):
            await self._catalog.create(target, found.code_space, found.indexing, hash_file, deadline)

    async def copy(
        self, source: str, target: str, condition: Filter | None, limit: int, cursor: str, deadline: float
    ) -> CopiedPage:
        """Copies the next records.

        Args:
            source: The stored name of the collection to copy from.
            target: The stored name of the collection to copy to.
            condition: Copy only records that match this filter.
            limit: The number of records.
            cursor: The cursor of the page before; empty for the first.
            deadline: When to give up.

        Raises:
            CodeSpaceMismatch: If the target has another code space, or stores other features.
        """
        if source == target:
            raise InvalidRequest("target: is the collection to copy from; name another one")
        layouts = await self._catalog.layout(source, deadline), await self._catalog.layout(target, deadline)
        _require_same(*layouts)
        page = await self._selector.page(source, condition, ListOf("", limit), cursor, "quorum", deadline)
        keys = page.listed.keys.strings()
        parts = [keys[start : start + _BATCH] for start in range(0, len(keys), _BATCH)]
        copied = await asyncio.gather(*(self._copy_part(source, target, part, deadline) for part in parts))
        metrics.RECORDS_WRITTEN.labels(self._catalog.label(target), "copy", "acknowledged").inc(sum(copied))
        return CopiedPage(len(keys), sum(copied), page.cursor)

    async def _copy_part(self, source: str, target: str, keys: Sequence[str], deadline: float) -> int:
        try:
            return await self._catalog.in_layout(
                target, deadline, lambda layout: self._copy_keys(source, target, layout, keys, deadline)
            )
        except InvalidRequest:
            if len(keys) == 1:
                raise
        # Perhaps the records are too large to be read at once.
        half = len(keys) // 2
        first = await self._copy_part(source, target, keys[:half], deadline)
        return first + await self._copy_part(source, target, keys[half:], deadline)

    async def _copy_keys(
        self, source: str, target: str, layout: Layout, keys: Sequence[str], deadline: float
    ) -> int:
        copied = 0
        pending = keys
        async for _ in attempts(target):
            wanted, bases = await self._wanted(source, target, layout, pending, deadline)
            results = await self._router.store_over(target, layout, self._stamped(wanted), bases, deadline)
            for result in results:
                if isinstance(result, LookalikeError):
                    raise result
            copied += results.count(Fate.STORED)
            # Another writer, or a shard that restarted, prevented the others.
            pending = [record.key for record, fate in zip(wanted, results, strict=True) if fate is not Fate.STORED]
            if not pending:
                break
        return copied

    async def _wanted(
        self, source: str, target: str, layout: Layout, keys: Sequence[str], deadline: float
    ) -> tuple[list[VersionedRecord], list[int]]:
        """The records that are newer than what the target has of their keys, and the target's versions."""
        features = layout.indexing.features_text
        records, present = await asyncio.gather(
            self._reader.fetch(source, keys, "quorum", deadline, features, include_thumbnails=True),
            self._reader.fetch(target, keys, "quorum", deadline, omit_content=True, include_deleted=True),
        )
        bases = {record.key: record.version for record in present}
        wanted = [record for record in records if record.version > bases.get(record.key, 0)]
        for record in wanted:
            self._clock.observe(max(record.version, bases.get(record.key, 0)))
        return wanted, [bases.get(record.key, 0) for record in wanted]

    def _stamped(self, records: Sequence[VersionedRecord]) -> list[VersionedRecord]:
        return [dataclasses.replace(record, version=self._clock.next()) for record in records]


def _require_same(source: Layout, target: Layout) -> None:
    if source.space != target.space or source.indexing.features_text != target.indexing.features_text:
        raise CodeSpaceMismatch(
            "target: exists with another code space, or stores other features; copy to a new collection"
        )
