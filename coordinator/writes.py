"""Owns writes: records checked, images encoded, versions given, each record sent to its partition."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from coordinator.catalog import Catalog, Layout, NotInLayout
from coordinator.clock import Clock
from coordinator.encoder_link import EncoderLink, check_image
from coordinator.placement import Placement
from coordinator.shard_link import ShardLink
from lookalike.errors import (
    CodeSpaceMismatch,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    PartitionUnavailable,
)
from lookalike.features import pack, read
from lookalike.indexing import Indexing
from lookalike.records import (
    VersionedRecord,
    attributes_text,
    check_code,
    check_key,
    parse_attributes,
)

_SUPERSEDED_ATTEMPTS = 8
_LARGE_ATTRIBUTES = 256 * 1024

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """A record as a client sent it: an image or a code, its attributes as JSON text, and with a code perhaps its
    features, float32 little-endian."""

    key: str
    image: bytes | None
    code: bytes | None
    attributes: str
    features: bytes = b""


class Writer:
    """Writes records and deletions, each to the replica of its partition."""

    def __init__(
        self,
        links: Sequence[ShardLink],
        placement: Placement,
        catalog: Catalog,
        encoder: EncoderLink,
        clock: Clock,
    ) -> None:
        self._links = links
        self._placement = placement
        self._catalog = catalog
        self._encoder = encoder
        self._clock = clock

    def stamp(self, count: int) -> list[int]:
        """Versions for `count` records, in the order in which they shall win over each other."""
        return [self._clock.next() for _ in range(count)]

    async def upsert(self, collection: str, drafts: Sequence[Draft], fingerprint: str, deadline: float) -> int:
        """Store all records; nothing is written if one is invalid. Returns how many are stored."""
        versions = self.stamp(len(drafts))

        async def upsert(layout: Layout) -> int:
            prepared = await self._prepare(layout, drafts, versions, fingerprint, deadline)
            records = [_or_raise(outcome) for outcome in prepared]
            for result in await self._store(collection, layout, records, deadline):
                _or_raise(result)
            return len(records)

        return await self._catalog.in_layout(collection, deadline, upsert)

    async def ingest(
        self,
        collection: str,
        drafts: Sequence[Draft],
        versions: Sequence[int],
        fingerprint: str,
        deadline: float,
    ) -> list[LookalikeError | None]:
        """Store what can be stored. Returns per record None, or why it is not stored."""

        async def ingest(layout: Layout) -> list[LookalikeError | None]:
            prepared = await self._prepare(layout, drafts, versions, fingerprint, deadline)
            doubtful = any(isinstance(outcome, NotInLayout) for outcome in prepared)
            if doubtful and await self._catalog.is_outdated(collection, layout, deadline):
                raise CodeSpaceMismatch(f"collection {collection!r} was made anew meanwhile")
            outcomes = [outcome if isinstance(outcome, LookalikeError) else None for outcome in prepared]
            good = [i for i, outcome in enumerate(outcomes) if outcome is None]
            records = [record for record in prepared if isinstance(record, VersionedRecord)]
            results = await self._store(collection, layout, records, deadline)
            for i, result in zip(good, results, strict=True):
                if isinstance(result, NotFound | CodeSpaceMismatch):
                    raise result
                outcomes[i] = result if isinstance(result, LookalikeError) else None
            return outcomes

        try:
            return await self._catalog.in_layout(collection, deadline, ingest)
        except LookalikeError as error:
            return [error] * len(drafts)

    async def delete(self, collection: str, keys: Sequence[str], deadline: float) -> int:
        """Delete records. Returns how many existed."""
        unique = list(dict.fromkeys(check_key(key) for key in keys))
        tombstones = [
            VersionedRecord(key, None, "", version)
            for key, version in zip(unique, self.stamp(len(unique)), strict=True)
        ]

        async def delete(layout: Layout) -> int:
            results = await self._store(collection, layout, tombstones, deadline)
            return sum(_or_raise(existed) for existed in results)

        return await self._catalog.in_layout(collection, deadline, delete)

    async def _prepare(
        self,
        layout: Layout,
        drafts: Sequence[Draft],
        versions: Sequence[int],
        fingerprint: str,
        deadline: float,
    ) -> list[VersionedRecord | LookalikeError]:
        """Each draft as a record with a code, or what is wrong with it."""
        space, indexing = layout.space, layout.indexing
        if any(draft.code is not None for draft in drafts):
            space.require(fingerprint, "the write")
        # Megabytes of JSON take seconds: not in the way of everyone else.
        large = sum(len(draft.attributes) for draft in drafts) > _LARGE_ATTRIBUTES
        check = functools.partial(_check_all, drafts, layout)
        checked = await asyncio.to_thread(check) if large else check()
        images = [
            draft.image
            for draft, text in zip(drafts, checked, strict=True)
            if isinstance(text, str) and draft.image is not None
        ]
        keeps = indexing.keeps_features
        width = indexing.feature_width
        encoded = iter(await self._encoder.encode(images, space, deadline, feature_width=width) if images else [])
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
            prepared.append(VersionedRecord(draft.key, code, text, version, kept))
        return prepared

    async def _store(
        self, collection: str, layout: Layout, records: Sequence[VersionedRecord], deadline: float
    ) -> list[bool | LookalikeError]:
        """Send each record to its partition. Returns per record whether a live one was there before, or
        why it is not stored."""
        results: list[bool | LookalikeError] = [PartitionUnavailable("the write was not tried")] * len(records)

        async def store_part(partition: int, indices: list[int]) -> None:
            part = [records[i] for i in indices]
            try:
                outcomes: Sequence[bool | LookalikeError] = await self._store_part(
                    self._links[partition], collection, layout, part, deadline
                )
            except LookalikeError as error:
                outcomes = [error] * len(part)
            for i, outcome in zip(indices, outcomes, strict=True):
                results[i] = outcome

        parts = self._placement.split([record.key for record in records])
        await asyncio.gather(*(store_part(partition, indices) for partition, indices in parts.items()))
        return results

    async def _store_part(
        self,
        link: ShardLink,
        collection: str,
        layout: Layout,
        records: list[VersionedRecord],
        deadline: float,
    ) -> list[bool]:
        """Write to one partition. A record that lost to a higher version of another coordinator's clock is
        written again above that: it came later. One that lost to this clock came earlier, and is done."""
        existed: list[bool] = [False] * len(records)
        pending = list(range(len(records)))
        for _ in range(_SUPERSEDED_ATTEMPTS):
            part = [records[i] for i in pending]
            result = await link.write(
                collection, layout.space.fingerprint, layout.indexing.features_text, part, deadline
            )
            self._clock.observe(result.newest_version)
            for i, was_there in zip(pending, result.existed, strict=True):
                existed[i] = was_there
            pending = [pending[i] for i, winner in result.superseded.items() if not self._clock.gave(winner)]
            if not pending:
                return existed
            for i in pending:
                records[i] = dataclasses.replace(records[i], version=self._clock.next())
        raise Overloaded(f"collection {collection!r}: too many writers of the same keys", retry_after_ms=100)


def _check_all(drafts: Sequence[Draft], layout: Layout) -> list[str | LookalikeError]:
    return [_check(draft, layout) for draft in drafts]


def _check(draft: Draft, layout: Layout) -> str | LookalikeError:
    """A draft's attributes in their one canonical form, so that the store finds names and values however a
    client wrote them; or what is wrong with the draft."""
    try:
        check_key(draft.key)
    except InvalidRequest as error:
        return error
    try:
        if draft.image is not None:
            check_image(draft.image)
            if draft.features:
                raise InvalidRequest("features: come with a code; those of an image are made from it")
        elif draft.code is not None:
            check_code(draft.code, layout.space, "the record")
            _check_features(draft, layout.indexing)
        else:
            raise InvalidRequest("needs an image or a code")
        return attributes_text(parse_attributes(draft.attributes))
    except InvalidRequest as error:
        return type(error)(f"record {draft.key!r}: {error.message}")


def _check_features(draft: Draft, indexing: Indexing) -> None:
    """With a code come features where the collection keeps them, and nowhere else."""
    if draft.features and not indexing.keeps_features:
        raise NotInLayout("features: this collection keeps none; leave them out, or make one that does")
    try:
        read("features", draft.features, indexing.feature_width)
    except InvalidRequest as error:
        raise NotInLayout(error.message) from None


def _or_raise(outcome: Value | LookalikeError) -> Value:
    if isinstance(outcome, LookalikeError):
        raise outcome
    return outcome
