"""Owns writes: checks records, encodes images and assigns versions."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from coordinator.catalog import Catalog, Layout, NotInLayout
from coordinator.clock import Clock
from coordinator.cluster import Cluster
from coordinator.conditional import ConditionalWrite, ConditionalWriter, checked_versions
from coordinator.encoders import Encoders
from coordinator.write_router import WriteRouter
from lookalike.cluster.checked_columns import checked
from lookalike.cluster.columns import CodeColumns, VersionedColumns
from lookalike.model.draft import Draft
from lookalike.model.errors import CodeSpaceMismatch, InvalidRequest, LookalikeError, NotFound
from lookalike.model.features import pack, read
from lookalike.model.indexing import Indexing
from lookalike.model.records import (
    Outcome,
    VersionedRecord,
    attributes_text,
    check_code,
    check_key,
    parse_attributes,
)
from lookalike.model.thumbnails import check_thumbnail
from lookalike.server.observe import metrics

_LARGE_ATTRIBUTES = 256 * 1024
CheckImage = Callable[[bytes], bytes]

Value = TypeVar("Value")


class Writer:
    """Writes and deletes records. Deadlines are times of the running loop's clock."""

    def __init__(
        self,
        cluster: Cluster,
        catalog: Catalog,
        encoders: Encoders,
        clock: Clock,
        conditional: ConditionalWriter,
    ) -> None:
        self._router = WriteRouter(cluster, clock)
        self._conditional = conditional
        self._catalog = catalog
        self._encoders = encoders
        self._clock = clock

    def reserve(self, count: int) -> npt.NDArray[np.uint64]:
        """As `stamp`, uint64 (count,)."""
        return self._clock.reserve(count)

    def stamp(self, count: int) -> list[int]:
        """Returns `count` versions, ascending: of two records with the same key, the higher version wins."""
        return [self._clock.next() for _ in range(count)]

    async def upsert(
        self,
        collection: str,
        drafts: Sequence[Draft],
        fingerprint: str,
        deadline: float,
        if_versions: Sequence[int] = (),
    ) -> int:
        """Stores all records, or none if one is invalid.

        Args:
            collection: The collection's name.
            drafts: The records.
            fingerprint: The code space of the records that have a code.
            deadline: When to give up.
            if_versions: The version that each stored record must have, 0 for none; empty to store the records
                unconditionally.

        Returns:
            The number of records.

        Raises:
            VersionConflict: If a stored record has another version; see `coordinator.conditional`.
        """
        if if_versions:
            checked_versions("if_version", if_versions, [draft.key for draft in drafts], 0)
        versions = self.stamp(len(drafts))

        async def upsert(layout: Layout) -> int:
            prepared = await self._prepare(layout, drafts, versions, fingerprint, deadline)
            records = [_or_raise(outcome) for outcome in prepared]
            if if_versions:
                await self._conditional.store(collection, layout, _conditions(records, if_versions), deadline)
                return len(records)
            for result in await self._router.store(collection, layout, records, deadline):
                _or_raise(result)
            return len(records)

        with self._counted(collection, "upsert", len(drafts)):
            return await self._catalog.in_layout(collection, deadline, upsert)

    async def ingest(
        self,
        collection: str,
        drafts: Sequence[Draft],
        versions: Sequence[int],
        fingerprint: str,
        deadline: float,
    ) -> list[LookalikeError | None]:
        """Stores the records that are valid.

        Args:
            collection: The collection's name.
            drafts: The records.
            versions: The records' versions, from `stamp`.
            fingerprint: The code space of the records that have a code.
            deadline: When to give up.

        Returns:
            For each record: None if it is stored, otherwise the reason why not.
        """

        async def ingest(layout: Layout) -> list[LookalikeError | None]:
            prepared = await self._prepare(layout, drafts, versions, fingerprint, deadline)
            doubtful = any(isinstance(outcome, NotInLayout) for outcome in prepared)
            if doubtful and await self._catalog.is_outdated(collection, layout, deadline):
                raise CodeSpaceMismatch(f"collection {collection!r} was created again in the meantime")
            outcomes = [outcome if isinstance(outcome, LookalikeError) else None for outcome in prepared]
            good = [i for i, outcome in enumerate(outcomes) if outcome is None]
            records = [record for record in prepared if isinstance(record, VersionedRecord)]
            results = await self._router.store(collection, layout, records, deadline)
            for i, result in zip(good, results, strict=True):
                if isinstance(result, NotFound | CodeSpaceMismatch):
                    raise result
                outcomes[i] = result if isinstance(result, LookalikeError) else None
            return outcomes

        outcomes: list[LookalikeError | None]
        try:
            outcomes = await self._catalog.in_layout(collection, deadline, ingest)
        except LookalikeError as error:
            outcomes = [error] * len(drafts)
        acknowledged = outcomes.count(None)
        self._count(collection, "ingest", acknowledged, len(outcomes) - acknowledged)
        return outcomes

    async def ingest_columns(
        self,
        collection: str,
        columns: CodeColumns,
        versions: npt.NDArray[np.uint64],
        fingerprint: str,
        deadline: float,
    ) -> dict[int, Outcome]:
        """Stores the records that are valid.

        Args:
            collection: The collection's name.
            columns: The records.
            versions: uint64 (n,), the records' versions, from `reserve`.
            fingerprint: The code space of the codes.
            deadline: When to give up.

        Returns:
            By index of each record that is not stored, its outcome.
        """
        count = len(versions)

        async def ingest(layout: Layout) -> dict[int, LookalikeError]:
            layout.space.require(fingerprint, "the write")
            if layout.indexing.keeps_features:
                raise NotInLayout("columns: hold no features, which this collection stores; send records")
            columns.require_width(layout.space)
            valid = await asyncio.to_thread(checked, columns)
            errors = dict(valid.errors)
            records = VersionedColumns(valid.columns, valid.ids, versions[valid.rows], valid.fields)
            failed = await self._router.store_columns(collection, layout, records, deadline)
            for row, error in failed.items():
                if isinstance(error, NotFound | CodeSpaceMismatch):
                    raise error
                errors[int(valid.rows[row])] = error
            return errors

        try:
            errors = await self._catalog.in_layout(collection, deadline, ingest)
        except LookalikeError as error:
            errors = dict.fromkeys(range(count), error)
        self._count(collection, "ingest", count - len(errors), len(errors))
        failed = sorted(errors)
        keys = columns.keys.take(np.array(failed, np.intp)).pieces()
        return {
            row: Outcome(key.decode(errors="replace"), errors[row]) for row, key in zip(failed, keys, strict=True)
        }

    async def delete(
        self, collection: str, keys: Sequence[str], deadline: float, if_versions: Sequence[int] = ()
    ) -> int:
        """Deletes records. Returns how many existed. if_versions: As in `upsert`, but no record may be absent."""
        unique = list(dict.fromkeys(check_key(key) for key in keys))
        if if_versions:
            checked_versions("if_versions", if_versions, keys, 1)
        tombstones = [
            VersionedRecord(key, None, "", version)
            for key, version in zip(unique, self.stamp(len(unique)), strict=True)
        ]

        async def delete(layout: Layout) -> int:
            if if_versions:
                await self._conditional.store(collection, layout, _conditions(tombstones, if_versions), deadline)
                return len(tombstones)
            results = await self._router.store(collection, layout, tombstones, deadline)
            return sum(_or_raise(existed) for existed in results)

        with self._counted(collection, "delete", len(unique)):
            return await self._catalog.in_layout(collection, deadline, delete)

    async def restore(
        self,
        collection: str,
        records: Sequence[VersionedRecord],
        fingerprint: str,
        features: str,
        deadline: float,
    ) -> int:
        """Stores the records and tombstones of a backup as new writes.

        Args:
            collection: The collection's name.
            records: The records and tombstones.
            fingerprint: The code space of the backup.
            features: How the collection of the backup stored features, such as "int8 1280".
            deadline: When to give up.

        Returns:
            The number of records and tombstones.
        """
        checked = await _in_thread_if_large(records, functools.partial(_checked, records))
        stamped = [
            dataclasses.replace(record, version=version)
            for record, version in zip(checked, self.stamp(len(records)), strict=True)
        ]

        async def restore(layout: Layout) -> int:
            layout.space.require(fingerprint, "the backup")
            layout.indexing.require_features(features, "the backup")
            for result in await self._router.store(collection, layout, stamped, deadline):
                _or_raise(result)
            return len(stamped)

        with self._counted(collection, "restore", len(records)):
            return await self._catalog.in_layout(collection, deadline, restore)

    @contextlib.contextmanager
    def _counted(self, collection: str, operation: str, records: int) -> Iterator[None]:
        """Counts the records that the block writes, or fails to write."""
        try:
            yield
        except LookalikeError:
            self._count(collection, operation, 0, records)
            raise
        self._count(collection, operation, records, 0)

    def _count(self, collection: str, operation: str, acknowledged: int, failed: int) -> None:
        label = self._catalog.label(collection)
        metrics.RECORDS_WRITTEN.labels(label, operation, "acknowledged").inc(acknowledged)
        metrics.RECORDS_WRITTEN.labels(label, operation, "failed").inc(failed)

    async def _prepare(
        self,
        layout: Layout,
        drafts: Sequence[Draft],
        versions: Sequence[int],
        fingerprint: str,
        deadline: float,
    ) -> list[VersionedRecord | LookalikeError]:
        """Each draft as a record with a code, or why it is invalid."""
        space, indexing = layout.space, layout.indexing
        if any(draft.code is not None for draft in drafts):
            space.require(fingerprint, "the write")
        checked = await _in_thread_if_large(
            drafts, functools.partial(_check_all, drafts, layout, self._encoders.check_image)
        )
        images = [
            draft.image
            for draft, text in zip(drafts, checked, strict=True)
            if isinstance(text, str) and draft.image is not None
        ]
        keeps = indexing.keeps_features
        width = indexing.feature_width
        encoded = iter(await self._encoders.encode(images, space, deadline, feature_width=width) if images else [])
        prepared: list[VersionedRecord | LookalikeError] = []
        for draft, text, version in zip(drafts, checked, versions, strict=True):
            if isinstance(text, LookalikeError):
                prepared.append(text)
                continue
            image = None if draft.image is None else next(encoded)
            if isinstance(image, InvalidRequest):
                prepared.append(InvalidRequest(f"record {draft.key!r}: {image.message}"))
                continue
            code = draft.code if image is None else image.code
            features = np.frombuffer(draft.features, "<f4") if image is None else image.features
            kept = pack(indexing.features, features) if keeps and features is not None else b""
            prepared.append(VersionedRecord(draft.key, code, text, version, kept, draft.thumbnail))
        return prepared


def _conditions(records: Sequence[VersionedRecord], if_versions: Sequence[int]) -> list[ConditionalWrite]:
    """The writes of these records, each under its condition."""
    return [
        ConditionalWrite(record.key, version, lambda _, record=record: record)  # type: ignore[misc]
        for record, version in zip(records, if_versions, strict=True)
    ]


async def _in_thread_if_large(
    records: Sequence[Draft] | Sequence[VersionedRecord], check: Callable[[], list[Value]]
) -> list[Value]:
    """Runs the check, in a thread if it would block the event loop: megabytes of JSON take seconds."""
    large = sum(len(record.attributes) for record in records) > _LARGE_ATTRIBUTES
    return await asyncio.to_thread(check) if large else check()


def _checked(records: Sequence[VersionedRecord]) -> list[VersionedRecord]:
    """The records of a backup in canonical form. Raises InvalidRequest for the first that is invalid."""
    return [
        dataclasses.replace(
            record,
            key=check_key(record.key),
            attributes="" if record.code is None else attributes_text(parse_attributes(record.attributes)),
            thumbnail=check_thumbnail(record.thumbnail),
        )
        for record in records
    ]


def _check_all(drafts: Sequence[Draft], layout: Layout, check_image: CheckImage) -> list[str | LookalikeError]:
    # Records of one request often have equal attributes.
    canonical = functools.cache(lambda text: attributes_text(parse_attributes(text)))
    return [_check(draft, layout, check_image, canonical) for draft in drafts]


def _check(
    draft: Draft, layout: Layout, check_image: CheckImage, canonical: Callable[[str], str]
) -> str | LookalikeError:
    """A draft's attributes in canonical form, so that the store finds names and values however a client wrote
    them; or why the draft is invalid."""
    try:
        check_key(draft.key)
    except InvalidRequest as error:
        return error
    try:
        if draft.image is not None:
            check_image(draft.image)
            if draft.features:
                raise InvalidRequest(
                    "features: send them only with a code; for an image, the encoder computes them"
                )
        elif draft.code is not None:
            check_code(draft.code, layout.space, "the record")
            _check_features(draft, layout.indexing)
        else:
            raise InvalidRequest("needs an image or a code")
        check_thumbnail(draft.thumbnail)
        return canonical(draft.attributes)
    except InvalidRequest as error:
        return type(error)(f"record {draft.key!r}: {error.message}")


def _check_features(draft: Draft, indexing: Indexing) -> None:
    """Features must come with a code if the collection stores them, and only then."""
    if draft.features and not indexing.keeps_features:
        raise NotInLayout(
            "features: this collection stores none; leave them out, or create a collection that stores features"
        )
    if not indexing.keeps_features:
        return
    try:
        read("features", draft.features, indexing.feature_width)
    except InvalidRequest as error:
        raise NotInLayout(error.message) from None


def _or_raise(outcome: Value | LookalikeError) -> Value:
    if isinstance(outcome, LookalikeError):
        raise outcome
    return outcome
