"""Owns the way of queries to all partitions and back: queries that wait share one RPC to each, and one merge.

A round is one such RPC to every partition. A few are on their way at once; a partition that stalls holds the next
rounds up for a moment only, and each caller waits for it as long as its own deadline allows."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from coordinator.merge import QueryHits, merge
from coordinator.shard_link import ShardLink
from lookalike.batcher import Batcher
from lookalike.errors import InvalidRequest, LookalikeError
from lookalike.scan import ScanGroup, ScanHits, Scoring

MAX_ROUND_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
ROUNDS_AT_ONCE = 2
_STALL_SECONDS = 0.25

Part = ScanHits | LookalikeError


@dataclasses.dataclass(slots=True, eq=False)
class _Ticket:
    """A caller's queries, from when it asks until it has its answer or goes away. Once they are on their way:
    in which round, in which of its groups, from which query on, and whether with those of others."""

    group: ScanGroup
    deadline: float
    round: _Round | None = None
    index: int = 0
    start: int = 0
    is_shared: bool = False


class FanOut:
    """Asks one replica of each partition. Deadlines are times of the running loop's clock."""

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = links
        self._tasks: set[asyncio.Task[list[Part]]] = set()
        self._rounds: Batcher[_Ticket, _Round] = Batcher(
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
                going = await self._rounds.submit(ticket)
            parts, hits = await going.answer(ticket.index, deadline)
        except TimeoutError:
            return [link.late() for link in self._links], [QueryHits.none() for _ in group.codes]
        finally:
            if ticket.round:
                ticket.round.leave()
        if ticket.is_shared and any(isinstance(part, InvalidRequest) for part in parts):
            # Each one's answer fits into the limits, all together may not.
            parts = await self._ask_alone(group, deadline)
            return parts, _merge(parts, group)
        return parts, hits[ticket.start : ticket.start + len(group.codes)]

    async def _ask_alone(self, group: ScanGroup, deadline: float) -> list[Part]:
        answers = await asyncio.gather(*(link.scan([group], deadline) for link in self._links))
        return [parts[0] for parts in answers]

    async def _run_round(self, tickets: Sequence[_Ticket]) -> Sequence[_Round]:
        groups = _join(tickets)
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
        return [going] * len(tickets)


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

    async def answer(self, index: int, deadline: float) -> tuple[list[Part], list[QueryHits]]:
        """The parts of the group at this place, and its merged hits."""
        if late := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(late, timeout=deadline - asyncio.get_running_loop().time())
        parts = [
            task.result()[index] if task.done() and not task.cancelled() else link.late()
            for link, task in zip(self._links, self._tasks, strict=True)
        ]
        if index not in self._merged:
            hits = _merge(parts, self._groups[index])
            if not all(task.done() for task in self._tasks):
                return parts, hits
            self._merged[index] = hits
        return parts, self._merged[index]


def _join(tickets: Sequence[_Ticket]) -> list[ScanGroup]:
    """Make one group of those that differ only in their codes, and tell each ticket where its queries are."""
    alike: dict[object, list[_Ticket]] = {}
    for ticket in tickets:
        alike.setdefault(ticket.group.options, []).append(ticket)
    joined = []
    for index, members in enumerate(alike.values()):
        start = 0
        for ticket in members:
            ticket.index, ticket.start, ticket.is_shared = index, start, len(members) > 1
            start += len(ticket.group.codes)
        first, *others = (ticket.group for ticket in members)
        joined.append(first.joined(others))
    return joined


def _merge(parts: Sequence[Part], group: ScanGroup) -> list[QueryHits]:
    by_rank = group.scoring is Scoring.ASYMMETRIC
    return merge([part for part in parts if isinstance(part, ScanHits)], len(group.codes), group.k, by_rank)
