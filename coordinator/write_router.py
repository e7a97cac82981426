"""Owns where a write must be before it is acknowledged: at enough replicas of every partition that has its slot.

The shards say which those are, in their answers: the partition that is giving a slot away names the one that takes
it, and that one the first, until the slot has moved. docs/CONSISTENCY.md says why no acknowledged write is
missed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence

from coordinator.catalog import Layout
from coordinator.clock import Clock
from coordinator.cluster import Cluster
from lookalike.cluster.scan import WriteResult
from lookalike.model.errors import LookalikeError, NotFound, Overloaded, SlotMoved
from lookalike.model.records import VersionedRecord, record_id, slot_of

_SUPERSEDED_ATTEMPTS = 8
# A slot that moves is written to two partitions; one that has moved again meanwhile, to a third.
_HOPS = 8
_PAUSE_SECONDS = 0.05
_NEW_SECONDS = 5.0


@dataclasses.dataclass(slots=True)
class _Placed:
    """What the replicas said of the records of one write."""

    existed: list[bool]
    superseded: dict[int, int]


class Placer:
    """Stores records of known versions."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock

    async def store(
        self, collection: str, layout: Layout, records: Sequence[VersionedRecord], deadline: float
    ) -> list[bool | LookalikeError]:
        """Returns per record whether a live one was there before, or why it is not stored."""
        results: list[bool | LookalikeError] = [False] * len(records)

        async def store_part(indices: list[int]) -> None:
            try:
                outcomes: Sequence[bool | LookalikeError] = await self._store_newest(
                    collection, layout, [records[i] for i in indices], deadline
                )
            except LookalikeError as error:
                outcomes = [error] * len(indices)
            for i, outcome in zip(indices, outcomes, strict=True):
                results[i] = outcome

        parts = self._cluster.routing.split([record.key for record in records])
        await asyncio.gather(*map(store_part, parts.values()))
        return results

    async def _store_newest(
        self, collection: str, layout: Layout, records: list[VersionedRecord], deadline: float
    ) -> list[bool]:
        """A record that lost to a higher version of another coordinator's clock is written again above that: it
        came later. One that lost to this clock came earlier, and is done."""
        existed: list[bool] = [False] * len(records)
        pending = list(range(len(records)))
        for _ in range(_SUPERSEDED_ATTEMPTS):
            placed = await self._place(collection, layout, [records[i] for i in pending], deadline)
            for i, was_there in zip(pending, placed.existed, strict=True):
                existed[i] = was_there
            pending = [pending[i] for i, by in placed.superseded.items() if not self._clock.gave(by)]
            if not pending:
                return existed
            for i in pending:
                records[i] = dataclasses.replace(records[i], version=self._clock.next())
        raise Overloaded(f"collection {collection!r}: too many writers of the same keys", retry_after_ms=100)

    async def _place(
        self, collection: str, layout: Layout, records: Sequence[VersionedRecord], deadline: float
    ) -> _Placed:
        """Store the records at every partition that has their slots. Raises if one cannot be reached."""
        slots = [slot_of(record_id(record.key)) for record in records]
        placed = _Placed([False] * len(records), {})
        asked: list[set[int]] = [set() for _ in records]
        stored: list[bool] = [False] * len(records)
        # Of these, a partition that was to be asked is no longer part of the cluster.
        astray: set[int] = set()
        waiting = self._by_owner(slots, range(len(records)))
        for hop in range(_HOPS):
            results = await asyncio.gather(
                *(
                    self._write(partition, collection, layout, [records[i] for i in indices], deadline, hop > 0)
                    for partition, indices in waiting.items()
                )
            )
            further: dict[int, set[int]] = {}
            for (partition, indices), answers in zip(waiting.items(), results, strict=True):
                if answers is None:
                    astray.update(indices)
                    continue
                needed = self._cluster.group(partition).writes_needed
                self._note(placed, indices, answers)
                elsewhere = _named(answers)
                for place, i in enumerate(indices):
                    asked[i].add(partition)
                    stored[i] |= sum(place not in answer.refused for answer in answers) >= needed
                    for other in elsewhere.get(slots[i], ()):
                        if other not in asked[i]:
                            further.setdefault(other, set()).add(i)
            waiting = {partition: sorted(indices) for partition, indices in further.items()}
            if waiting:
                continue
            lost = [i for i, is_stored in enumerate(stored) if not is_stored or i in astray]
            if not lost:
                return placed
            # Nobody that was asked has the slot, or not enough replicas yet: look again who has.
            await asyncio.sleep(_PAUSE_SECONDS * hop)
            await self._cluster.refresh()
            astray.clear()
            for i in lost:
                asked[i].clear()
            waiting = self._by_owner(slots, lost)
        raise SlotMoved("the records' slots are on their way; repeat the write, which is harmless")

    async def _write(
        self,
        partition: int,
        collection: str,
        layout: Layout,
        records: Sequence[VersionedRecord],
        deadline: float,
        is_new: bool,
    ) -> list[WriteResult] | None:
        """What enough replicas answered; None if the partition is no longer part of the cluster. is_new: slots
        move there just now; some of its replicas may not have heard of the collection yet."""
        loop = asyncio.get_running_loop()
        until = min(deadline, loop.time() + _NEW_SECONDS) if is_new else 0.0
        while True:
            try:
                return await self._cluster.group(partition).write(
                    collection, layout.space.fingerprint, layout.indexing.features_text, records, deadline
                )
            except SlotMoved:
                return None
            except NotFound:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    def _by_owner(self, slots: Sequence[int], indices: Sequence[int]) -> dict[int, list[int]]:
        parts: dict[int, list[int]] = {}
        for i in indices:
            parts.setdefault(int(self._cluster.routing.owners[slots[i]]), []).append(i)
        return parts

    def _note(self, placed: _Placed, indices: Sequence[int], answers: Sequence[WriteResult]) -> None:
        for answer in answers:
            self._clock.observe(answer.newest_version)
            for place, i in enumerate(indices):
                placed.existed[i] |= answer.existed[place]
            for place, by in answer.superseded.items():
                i = indices[place]
                placed.superseded[i] = max(by, placed.superseded.get(i, 0))


def _named(answers: Sequence[WriteResult]) -> Mapping[int, set[int]]:
    """By slot, the partitions that the answers name beside the one that was asked."""
    named: dict[int, set[int]] = {}
    for answer in answers:
        for slot, partition in answer.elsewhere.items():
            named.setdefault(slot, set()).add(partition)
    return named
