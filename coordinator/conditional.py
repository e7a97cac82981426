"""Owns writes with a condition: a record is stored only if the stored one has exactly the version that the client
named (`if_version`).

Like a change of attributes, such a write reads the newest version of a record on a majority, reserves the key,
and then stores the record (docs/CONSISTENCY.md). It differs in that it may not start from another version, except
one of its own earlier attempts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from coordinator.attempts import paced_attempts, too_many_writers
from coordinator.catalog import Layout
from coordinator.clock import Clock
from coordinator.cluster import Cluster
from coordinator.reader import Reader
from coordinator.write_router import Fate, WriteRouter
from lookalike.model.errors import InvalidRequest, LookalikeError, Overloaded, VersionConflict
from lookalike.model.records import VERSION_LIMIT, VersionedRecord

_KEYS_NAMED = 5


@dataclasses.dataclass(frozen=True, slots=True)
class ConditionalWrite:
    """A write with a condition.

    Attributes:
        key: The key.
        if_version: The version that the stored record must have; 0 if there must be none.
        new: Returns the record to store instead of the stored one (None if there is none), with any version.
    """

    key: str
    if_version: int
    new: Callable[[VersionedRecord | None], VersionedRecord]


def checked_versions(field: str, versions: Sequence[int], keys: Sequence[str], least: int) -> None:
    """Raises InvalidRequest unless there is one valid version for each key, and each key is named once."""
    if len(versions) != len(keys):
        raise InvalidRequest(f"{field}: {len(versions):,} for {len(keys):,} keys; send one for each key, or none")
    if len(set(keys)) != len(keys):
        twice = next(key for place, key in enumerate(keys) if key in keys[:place])
        raise InvalidRequest(f"key: {twice!r} occurs twice; with {field}, name each key once")
    for key, version in zip(keys, versions, strict=True):
        if not least <= version < VERSION_LIMIT:
            raise InvalidRequest(
                f"{field}: is {version} for key {key!r}; send the version that the record was read with"
            )


class ConditionalWriter:
    """Stores records under a condition. Deadlines are times of the running loop's clock."""

    def __init__(self, cluster: Cluster, reader: Reader, router: WriteRouter, clock: Clock) -> None:
        """Creates a writer. `router` and `clock` are those of `coordinator.changes.Changer`."""
        self._cluster = cluster
        self._reader = reader
        self._router = router
        self._clock = clock

    async def store(
        self, collection: str, layout: Layout, writes: Sequence[ConditionalWrite], deadline: float
    ) -> None:
        """Stores the records whose conditions hold. If one does not hold at first, nothing is stored.

        Raises:
            VersionConflict: If a condition does not hold. The records that the message names are not stored.
            Overloaded: If there are too many writers of a key, so that it is not known whether its record was
                stored before another one.
            InvalidRequest: If less than a majority acknowledges writes, so that no condition can be checked.
        """
        self._require_majority()
        pending = {write.key: write for write in writes}
        # The versions that earlier attempts may have stored.
        attempts: dict[str, set[int]] = {write.key: set() for write in writes}
        conflicts: dict[str, int] = {}
        async for attempt in paced_attempts():
            stored = await self._read(collection, layout, list(pending), deadline)
            for key in list(pending):
                found = stored.get(key)
                if not _holds(pending[key].if_version, found, attempts[key]):
                    if attempts[key]:
                        raise _unknown(collection, key)
                    conflicts[key] = 0 if found is None or found.code is None else found.version
                    del pending[key]
            if conflicts and (attempt == 0 or not pending):
                break
            await self._store(collection, layout, pending, stored, attempts, deadline)
            if not pending and not conflicts:
                return
        if conflicts:
            raise _conflict({write.key: write.if_version for write in writes}, conflicts)
        raise too_many_writers(collection)

    def _require_majority(self) -> None:
        for share in self._cluster.routing.shares:
            group = self._cluster.group(share.partition)
            if group.writes_needed < group.majority:
                raise InvalidRequest(
                    "if_version: this cluster acknowledges a write on fewer than a majority of replicas; set"
                    " write_quorum to majority or all"
                )

    async def _read(
        self, collection: str, layout: Layout, keys: Sequence[str], deadline: float
    ) -> dict[str, VersionedRecord]:
        """The newest versions of the keys on a majority, tombstones included."""
        records = await self._reader.fetch(
            collection,
            keys,
            "quorum",
            deadline,
            layout.indexing.features_text,
            include_thumbnails=True,
            include_deleted=True,
        )
        for record in records:
            self._clock.observe(record.version)
        return {record.key: record for record in records}

    async def _store(
        self,
        collection: str,
        layout: Layout,
        pending: dict[str, ConditionalWrite],
        stored: dict[str, VersionedRecord],
        attempts: dict[str, set[int]],
        deadline: float,
    ) -> None:
        """Tries to store the pending records, and removes those that it has stored."""
        keys = list(pending)
        records, bases = [], []
        for key in keys:
            found = stored.get(key)
            is_live = found is not None and found.code is not None
            new = pending[key].new(found if is_live else None)
            records.append(dataclasses.replace(new, version=self._clock.next()))
            bases.append(0 if found is None else found.version)
        fates = await self._router.store_over(collection, layout, records, bases, deadline)
        for record, fate in zip(records, fates, strict=True):
            if isinstance(fate, LookalikeError):
                raise fate
            if fate is Fate.STORED:
                del pending[record.key]
            elif fate is Fate.SUPERSEDED:
                attempts[record.key].add(record.version)


def _holds(if_version: int, found: VersionedRecord | None, attempts: set[int]) -> bool:
    if found is not None and found.version in attempts:
        return True
    version = 0 if found is None or found.code is None else found.version
    return version == if_version


def _unknown(collection: str, key: str) -> Overloaded:
    return Overloaded(
        f"collection {collection!r}: record {key!r} was written by another client at the same time, so it is not"
        " known whether this write came first; read the record again",
        retry_after_ms=100,
    )


def _conflict(expected: dict[str, int], found: dict[str, int]) -> VersionConflict:
    named = [
        f"record {key!r} "
        + ("does not exist" if not version else f"has version {version}")
        + (f", not {expected[key]}" if expected[key] else ", but must not exist")
        for key, version in list(found.items())[:_KEYS_NAMED]
    ]
    others = f"; {len(found) - len(named):,} more" if len(found) > len(named) else ""
    return VersionConflict(f"if_version: {'; '.join(named)}{others}; read again before you retry")
