"""Owns the way of queries to all partitions and back: queries that wait share one RPC to each, and one merge.

A round is one such RPC to every partition. A few are on their way at once; a partition that stalls holds the next
rounds up for a moment only, and each caller waits for it as long as its own deadline allows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np

from coordinator.merge import QueryHits, merge
from coordinator.shard_link import ShardLink
from lookalike.batcher import Batcher
from lookalike.errors import DeadlineExceeded, InvalidRequest, LookalikeError
from lookalike.scan import ScanGroup, ScanHits

MAX_ROUND_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
ROUNDS_AT_ONCE = 2
_STALL_SECONDS = 0.25

Part = ScanHits | LookalikeError


@dataclasses.dataclass(slots=True, eq=False)
class _Ticket:
    """A caller's queries, from when it asks until it has its answer or goes away."""

    group: ScanGroup
    deadline: float
    round: _Round | None = None


class FanOut:
    """Asks one replica of each partition. Deadlines are times of the running loop's clock."""

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = links
        self._tasks: set[asyncio.Task[list[Part]]] = set()
        self._rounds: Batcher[_Ticket, _Place] = Batcher(
            self._run_round,
            max_weight=MAX_ROUND_QUERIES,
            max_waiting=MAX_WAITING_QUERIES,
            concurrency=ROUNDS_AT_ONCE,
            weigh=lambda ticket: ticket.group.weight,
        )

    async def close(self) -> None:
        await self._rounds.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, group: ScanGroup, deadline: float) -> tuple[list[Part], list[QueryHits]]:
        """What each partition answered by the deadline, and the hits of those that did. Cancelling it reaches the
        shards, once every caller that shares the round has gone."""
        ticket = _Ticket(group, deadline)
        try:
            async with asyncio.timeout_at(deadline):
                place = await self._rounds.submit(ticket)
            parts, hits = await place.round.answer(place, deadline)
        except TimeoutError:
            return [_late(link) for link in self._links], [QueryHits([], [], []) for _ in group.codes]
        finally:
            if ticket.round:
                ticket.round.leave()
        if place.is_shared and any(isinstance(part, InvalidRequest) for part in parts):
            # Each one's answer fits into the limits, all together may not.
            parts = await self._ask_alone(group, deadline)
            return parts, _merge(parts, group)
        return parts, hits[place.start : place.start + len(group.codes)]

    async def _ask_alone(self, group: ScanGroup, deadline: float) -> list[Part]:
        answers = await asyncio.gather(*(link.scan([group], deadline) for link in self._links))
        return [parts[0] for parts in answers]

    async def _run_round(self, tickets: Sequence[_Ticket]) -> Sequence[_Place]:
        groups, places = _join([ticket.group for ticket in tickets])
        deadline = max(ticket.deadline for ticket in tickets)
        tasks = [asyncio.create_task(link.scan(groups, deadline)) for link in self._links]
        for task in tasks:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        going = _Round(self._links, groups, tasks, len(tickets))
        for ticket in tickets:
            ticket.round = going
        try:
            await asyncio.wait(tasks, timeout=_STALL_SECONDS)
        except asyncio.CancelledError:
            going.cancel()
            raise
        return [_Place(going, index, start, is_shared) for index, start, is_shared in places]


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where a caller's queries are in a round: in which of its groups, from which query on."""

    round: _Round
    index: int
    start: int
    is_shared: bool


class _Round:
    def __init__(
        self,
        links: Sequence[ShardLink],
        groups: Sequence[ScanGroup],
        tasks: Sequence[asyncio.Task[list[Part]]],
        callers: int,
    ) -> None:
        self._links, self._groups, self._tasks = links, groups, tasks
        self._callers = callers
        self._merged: dict[int, list[QueryHits]] = {}

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def leave(self) -> None:
        """One caller fewer. What is still on its way when the last has gone is cancelled."""
        self._callers -= 1
        if not self._callers:
            self.cancel()

    async def answer(self, place: _Place, deadline: float) -> tuple[list[Part], list[QueryHits]]:
        """The parts of the group at this place, and its merged hits."""
        if late := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(late, timeout=deadline - asyncio.get_running_loop().time())
        parts = [
            task.result()[place.index] if task.done() and not task.cancelled() else _late(link)
            for link, task in zip(self._links, self._tasks, strict=True)
        ]
        if place.index not in self._merged:
            hits = _merge(parts, self._groups[place.index])
            if not all(task.done() for task in self._tasks):
                return parts, hits
            self._merged[place.index] = hits
        return parts, self._merged[place.index]


def _join(groups: Sequence[ScanGroup]) -> tuple[list[ScanGroup], list[tuple[int, int, bool]]]:
    """Make one group of those that differ only in their codes. Also returns for each group in which it is, from
    which query on, and whether with others."""
    alike: dict[object, list[int]] = {}
    for position, group in enumerate(groups):
        options = (group.collection, group.fingerprint, group.k, group.max_distance, group.filter)
        alike.setdefault((*options, group.include_attributes), []).append(position)
    joined = []
    places = [(0, 0, False)] * len(groups)
    for index, members in enumerate(alike.values()):
        start = 0
        for position in members:
            places[position] = (index, start, len(members) > 1)
            start += len(groups[position].codes)
        first = groups[members[0]]
        if len(members) > 1:
            first = dataclasses.replace(first, codes=np.concatenate([groups[i].codes for i in members]))
        joined.append(first)
    return joined, places


def _merge(parts: Sequence[Part], group: ScanGroup) -> list[QueryHits]:
    return merge([part for part in parts if isinstance(part, ScanHits)], len(group.codes), group.k)


def _late(link: ShardLink) -> LookalikeError:
    return DeadlineExceeded(f"partition {link.partition} did not answer in time")
