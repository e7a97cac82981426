"""Owns where a write must be stored before it is acknowledged: on enough replicas of every partition that has the
record's slot.

The shards name those partitions in their answers: while a slot moves, its source names the partition that receives
it, and vice versa. docs/CONSISTENCY.md explains why no acknowledged write is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from coordinator.catalog import Layout
from coordinator.clock import Clock
from coordinator.cluster import Cluster
from coordinator.replicas import ReplicaGroup
from coordinator.routing import slots_of_keys
from coordinator.routing_retry import RoutingRetry
from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.scan import RESERVED_SECONDS, WriteResult
from lookalike.model.errors import LookalikeError, NotFound, Overloaded, SlotMoved
from lookalike.model.records import VersionedRecord

_SUPERSEDED_ATTEMPTS = 8
# A moving slot is written to two partitions. If it moves again in the meantime, it is also written to a third.
_HOPS = 8
_PAUSE_SECONDS = 0.05
_NEW_SECONDS = 5.0


class Fate(enum.Enum):
    """What became of a record that was to replace a certain version."""

    # It is stored.
    STORED = enum.auto()
    # It is stored nowhere, because another version was stored, or was being stored.
    NOT_STORED = enum.auto()
    # Another version superseded it, so a replica may have it or not.
    SUPERSEDED = enum.auto()


@dataclasses.dataclass(frozen=True, slots=True)
class _Destination:
    """What all records of one call to `store` share. is_reserved: whether their keys are reserved for them."""

    collection: str
    layout: Layout
    deadline: float
    is_reserved: bool = False


class _Batch:
    """Records whose slots one partition owns, and what the replicas answered about each record. bases: The highest
    stored version of each, if their keys are to be reserved; None if the records are to be stored."""

    def __init__(
        self, records: Sequence[VersionedRecord], slots: Sequence[int], bases: Sequence[int] | None = None
    ) -> None:
        self.records = records
        self.slots = slots
        self.bases = bases
        self.existed = [False] * len(records)
        self.is_stored = [False] * len(records)
        # Whether so many replicas of a partition have a higher version that too few are left.
        self.is_outvoted = [False] * len(records)
        # Whether a replica may have stored it, even if it was superseded later.
        self.may_be_somewhere = [False] * len(records)
        # By index of a record that lost to a higher version: that version.
        self.superseded: dict[int, int] = {}

    def apply(self, indices: Sequence[int], answers: Sequence[WriteResult], group: ReplicaGroup) -> None:
        """Records what one partition's replicas answered about the records with these indices."""
        are_all = len(answers) == len(group.replicas)
        for place, i in enumerate(indices):
            self.existed[i] |= any(answer.existed[place] for answer in answers)
            self.is_stored[i] |= sum(place not in answer.refused for answer in answers) >= group.writes_needed
            superseding = sum(place in answer.superseded for answer in answers)
            self.is_outvoted[i] |= superseding > 0 and len(answers) - superseding < group.writes_needed
            self.may_be_somewhere[i] |= not are_all or any(
                answer.is_repeated or (place not in answer.superseded and place not in answer.refused)
                for answer in answers
            )
        for answer in answers:
            for place, version in answer.superseded.items():
                i = indices[place]
                self.superseded[i] = max(version, self.superseded.get(i, 0))


class WriteRouter:
    """Stores records whose versions are set."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock

    async def store(
        self, collection: str, layout: Layout, records: Sequence[VersionedRecord], deadline: float
    ) -> list[bool | LookalikeError]:
        """Stores the records. If a partition fails, the records of the other partitions are still stored.

        Returns:
            For each record, whether a live record with its key existed before, or the error if it is not stored.
        """
        destination = _Destination(collection, layout, deadline)
        slots = slots_of_keys([record.key for record in records])
        results: list[bool | LookalikeError] = [False] * len(records)

        async def store_part(partition: int, indices: list[int]) -> None:
            try:
                outcomes: Sequence[bool | LookalikeError] = await self._store_newest(
                    destination, partition, [records[i] for i in indices], [slots[i] for i in indices]
                )
            except LookalikeError as error:
                outcomes = [error] * len(indices)
            for i, outcome in zip(indices, outcomes, strict=True):
                results[i] = outcome

        parts = self._cluster.routing.split(slots, range(len(records)))
        await asyncio.gather(*(store_part(partition, indices) for partition, indices in parts.items()))
        return results

    async def store_over(
        self,
        collection: str,
        layout: Layout,
        records: Sequence[VersionedRecord],
        bases: Sequence[int],
        deadline: float,
    ) -> list[Fate | LookalikeError]:
        """Stores each record if the version that it is based on is still the newest.

        Args:
            collection: The collection's name.
            layout: The collection's layout.
            records: The records, with versions that were never used.
            bases: The stored versions that the records are based on.
            deadline: When to give up.

        Returns:
            For each record its fate, or the error if that is unknown.
        """
        destination = _Destination(collection, layout, deadline)
        slots = slots_of_keys([record.key for record in records])
        results: list[Fate | LookalikeError] = [Fate.NOT_STORED] * len(records)

        async def store_part(partition: int, indices: list[int]) -> None:
            try:
                stored = await self._store_reserved(
                    destination,
                    partition,
                    [records[i] for i in indices],
                    [slots[i] for i in indices],
                    [bases[i] for i in indices],
                )
            except LookalikeError as error:
                results[:] = [error if i in set(indices) else result for i, result in enumerate(results)]
                return
            for i, fate in zip(indices, stored, strict=True):
                results[i] = fate

        parts = self._cluster.routing.split(slots, range(len(records)))
        await asyncio.gather(*(store_part(partition, indices) for partition, indices in parts.items()))
        return results

    async def _store_reserved(
        self,
        destination: _Destination,
        partition: int,
        records: Sequence[VersionedRecord],
        slots: Sequence[int],
        bases: Sequence[int],
    ) -> list[Fate]:
        """Reserves the keys of records whose slots one partition owns, and stores the records whose keys it could
        reserve on enough replicas. Returns the fate of each."""
        keys = [VersionedRecord(record.key, None, "", record.version) for record in records]
        reserved = _Batch(keys, slots, bases)
        loop = asyncio.get_running_loop()
        # The first reservation may be this old, and must hold until the record is stored.
        expiry = loop.time() + RESERVED_SECONDS / 2
        await self._store_batch(destination, partition, reserved)
        self._observe(reserved)
        stored = [Fate.NOT_STORED] * len(records)
        if loop.time() > expiry:
            return stored
        taken = [i for i in range(len(records)) if reserved.is_outvoted[i]]
        if taken:
            layout = destination.layout
            await self._cluster.group(partition).unreserve(
                destination.collection,
                layout.space.fingerprint,
                layout.indexing.features_text,
                [keys[i] for i in taken],
            )
        free = [i for i in range(len(records)) if not reserved.is_outvoted[i]]
        if free:
            batch = _Batch([records[i] for i in free], [slots[i] for i in free])
            soon = min(destination.deadline, expiry + RESERVED_SECONDS / 4)
            reserved_for = dataclasses.replace(destination, deadline=soon, is_reserved=True)
            await self._store_batch(reserved_for, partition, batch)
            self._observe(batch)
            for place, i in enumerate(free):
                if not batch.is_outvoted[place]:
                    stored[i] = Fate.STORED
                elif batch.may_be_somewhere[place]:
                    stored[i] = Fate.SUPERSEDED
        return stored

    def _observe(self, batch: _Batch) -> None:
        for version in batch.superseded.values():
            self._clock.observe(version)

    async def store_columns(
        self, collection: str, layout: Layout, records: VersionedColumns, deadline: float
    ) -> dict[int, LookalikeError]:
        """Stores the records. Those that one call to each partition does not settle, for example because their
        slots are moving, are stored again by `store`, which is harmless.

        Returns:
            By index of each record that is not stored, why.
        """
        destination = _Destination(collection, layout, deadline)
        errors: dict[int, LookalikeError] = {}

        async def store_part(partition: int, rows: npt.NDArray[np.intp]) -> None:
            part = records if len(rows) == len(records) else records.take(rows)
            try:
                answers = await self._write(destination, partition, part, may_be_new=False)
            except LookalikeError as error:
                errors.update(dict.fromkeys(rows.tolist(), error))
                return
            for answer in answers or ():
                self._clock.observe(answer.newest_version)
            unsettled = _unsettled(part, answers)
            again = part.take(unsettled).records() if len(unsettled) else []
            for row, result in zip(
                rows[unsettled].tolist(), await self.store(collection, layout, again, deadline), strict=True
            ):
                if isinstance(result, LookalikeError):
                    errors[row] = result

        owners = self._cluster.routing.owners[records.slots]
        parts = {partition: np.flatnonzero(owners == partition) for partition in np.unique(owners).tolist()}
        await asyncio.gather(*(store_part(partition, rows) for partition, rows in parts.items()))
        return errors

    async def _store_newest(
        self, destination: _Destination, partition: int, records: list[VersionedRecord], slots: Sequence[int]
    ) -> list[bool]:
        """Stores records whose slots one partition owns. Returns for each whether a live record with its key
        existed before.

        A record may lose to a higher version. If another coordinator's clock issued that version, the record
        counts as the later write, and is written again with a higher version. If this coordinator's clock issued
        it, the record is the earlier write, and nothing is left to do.
        """
        existed: list[bool] = [False] * len(records)
        pending = list(range(len(records)))
        for _ in range(_SUPERSEDED_ATTEMPTS):
            batch = _Batch([records[i] for i in pending], [slots[i] for i in pending])
            await self._store_batch(destination, partition, batch)
            self._observe(batch)
            for i, was_there in zip(pending, batch.existed, strict=True):
                existed[i] = was_there
            pending = [pending[i] for i, by in batch.superseded.items() if not self._clock.issued(by)]
            if not pending:
                return existed
            for i in pending:
                records[i] = dataclasses.replace(records[i], version=self._clock.next())
        raise Overloaded(
            f"collection {destination.collection!r}: too many concurrent writers of the same keys",
            retry_after_ms=100,
        )

    async def _store_batch(self, destination: _Destination, partition: int, batch: _Batch) -> None:
        """Stores the batch at every partition that has its slots. Raises if a partition cannot be reached."""
        retry = RoutingRetry(self._cluster, destination.deadline)
        waiting = {partition: list(range(len(batch.records)))}
        is_first = True
        while lost := await self._store_and_forward(destination, batch, waiting, is_first):
            # These records are not yet stored on enough replicas of every partition that has their slots.
            if not await retry.refreshed():
                raise SlotMoved("the records' slots are moving; repeat the write, which is harmless")
            waiting = self._cluster.routing.split(batch.slots, lost)
            is_first = False

    async def _store_and_forward(
        self, destination: _Destination, batch: _Batch, waiting: dict[int, list[int]], is_first: bool
    ) -> list[int]:
        """Stores records at the partitions in `waiting`, which maps partitions to indices of records, and then at
        every other partition that the answers name. Returns the indices of records that are not stored
        everywhere."""
        indices = [i for part in waiting.values() for i in part]
        called: dict[int, set[int]] = {i: set() for i in indices}
        # Indices whose route is stale: a partition to call is no longer part of the cluster.
        stale_route: set[int] = set()
        for hop in range(_HOPS):
            may_be_new = hop > 0 or not is_first
            results = await asyncio.gather(
                *(
                    self._write(
                        destination,
                        partition,
                        [batch.records[i] for i in part],
                        may_be_new,
                        None if batch.bases is None else [batch.bases[i] for i in part],
                    )
                    for partition, part in waiting.items()
                )
            )
            further: dict[int, set[int]] = {}
            for (partition, part), answers in zip(waiting.items(), results, strict=True):
                if answers is None:
                    stale_route.update(part)
                    continue
                for answer in answers:
                    self._clock.observe(answer.newest_version)
                batch.apply(part, answers, self._cluster.group(partition))
                forward_to = _forward_to(answers)
                for i in part:
                    called[i].add(partition)
                    for other in forward_to.get(batch.slots[i], set()) - called[i]:
                        further.setdefault(other, set()).add(i)
            waiting = {partition: sorted(part) for partition, part in further.items()}
            if not waiting:
                break
        unfinished = stale_route.union(*waiting.values())
        return [i for i in indices if i in unfinished or not batch.is_stored[i]]

    async def _write(
        self,
        destination: _Destination,
        partition: int,
        records: Sequence[VersionedRecord] | VersionedColumns,
        may_be_new: bool,
        bases: Sequence[int] | None = None,
    ) -> list[WriteResult] | None:
        """Returns the answers of enough replicas; None if the partition is no longer part of the cluster.

        bases: As in `_Batch`.
        may_be_new: Whether slots may be moving to the partition; then some of its replicas may not have the
            collection yet.
        """
        loop = asyncio.get_running_loop()
        give_up_at = min(destination.deadline, loop.time() + _NEW_SECONDS) if may_be_new else 0.0
        layout = destination.layout
        while True:
            try:
                return await self._cluster.group(partition).write(
                    destination.collection,
                    layout.space.fingerprint,
                    layout.indexing.features_text,
                    records,
                    destination.deadline,
                    bases,
                    destination.is_reserved,
                )
            except SlotMoved:
                return None
            except NotFound:
                if loop.time() >= give_up_at:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)


def _unsettled(records: VersionedColumns, answers: Sequence[WriteResult] | None) -> npt.NDArray[np.intp]:
    """The indices of records that the answers of one partition's replicas do not show to be stored wherever they
    must be, (m,)."""
    if answers is None:
        return np.arange(len(records))
    rows = {row for answer in answers for row in (*answer.refused, *answer.superseded)}
    moving = list(_forward_to(answers))
    if moving:
        rows.update(np.flatnonzero(np.isin(records.slots, moving)).tolist())
    return np.array(sorted(rows), np.intp)


def _forward_to(answers: Sequence[WriteResult]) -> Mapping[int, set[int]]:
    """Returns for each slot the other partitions that the answers name."""
    named: dict[int, set[int]] = {}
    for answer in answers:
        for slot, partition in answer.forward_to.items():
            named.setdefault(slot, set()).add(partition)
    return named
