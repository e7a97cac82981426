"""Owns the way of queries to all partitions and back: queries that wait share one RPC to each, and one merge.

A round is one such RPC to every partition. A few are on their way at once; a partition that stalls holds the next
rounds up for a moment only, and each caller waits for it as long as its own deadline allows."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordinator.cluster import Cluster
from coordinator.merge import QueryHits, merge
from coordinator.routing import Share
from lookalike.cluster.scan import ScanGroup, ScanHits, Scoring
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, LookalikeError
from lookalike.server.batcher import Batcher
from lookalike.server.observe import metrics
from lookalike.transport import tracing

MAX_ROUND_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
ROUNDS_AT_ONCE = 2
_STALL_SECONDS = 0.25

Part = ScanHits | LookalikeError
# How a share of the slots is searched: by one replica, or by a majority.
Ask = Callable[[Share, Sequence[ScanGroup], float], Coroutine[Any, Any, list[Part]]]


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


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What each share of the slots answered, and the hits of those that did, merged."""

    shares: Sequence[Share]
    parts: Sequence[Part]
    hits: Sequence[QueryHits]


class FanOut:
    """Asks for every slot once. Deadlines are times of the running loop's clock."""

    def __init__(self, cluster: Cluster, ask: Ask) -> None:
        self._cluster = cluster
        self._ask = ask
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

    @property
    def waiting(self) -> int:
        """Searches that wait for a round."""
        return self._rounds.waiting

    async def ask(self, group: ScanGroup, deadline: float) -> Answers:
        """What was answered by the deadline. Cancelling it reaches the shards, once every caller that shares the
        round has gone."""
        ticket = _Ticket(group, deadline)
        try:
            with tracing.span("fan-out", queries=len(group.codes)) as span:
                async with asyncio.timeout_at(deadline):
                    going = await self._rounds.submit(ticket)
                if span is not None and going.span is not None and going.is_shared:
                    # The round is in the trace of one of those who share it.
                    span.add_link(going.span)
                parts, hits = await going.answer(ticket.index, deadline)
        except TimeoutError:
            shares = self._cluster.routing.shares
            return Answers(shares, [_late(share) for share in shares], [QueryHits.none() for _ in group.codes])
        finally:
            if ticket.round:
                ticket.round.leave()
        if ticket.is_shared and any(isinstance(part, InvalidRequest) for part in parts):
            # Each one's answer fits into the limits, all together may not.
            answers = await asyncio.gather(*(self._ask(share, [group], deadline) for share in going.shares))
            parts = [answer[0] for answer in answers]
            return Answers(going.shares, parts, _merge(parts, group))
        return Answers(going.shares, parts, hits[ticket.start : ticket.start + len(group.codes)])

    async def _run_round(self, tickets: Sequence[_Ticket]) -> Sequence[_Round]:
        groups = _join(tickets)
        deadline = max(ticket.deadline for ticket in tickets)
        shares = self._cluster.routing.shares
        queries = sum(len(group.codes) for group in groups)
        metrics.ROUND_QUERIES.observe(queries)
        with tracing.span("round", queries=queries, requests=len(tickets)):
            tasks = [asyncio.create_task(self._ask(share, groups, deadline)) for share in shares]
            for task in tasks:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            going = _Round(shares, groups, tasks, len(tickets))
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
        shares: Sequence[Share],
        groups: Sequence[ScanGroup],
        tasks: Sequence[asyncio.Task[list[Part]]],
        callers: int,
    ) -> None:
        self.shares = shares
        self._groups, self._tasks = groups, tasks
        self._callers = callers
        self.is_shared = callers > 1
        self.span = tracing.current()
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
            task.result()[index] if task.done() and not task.cancelled() else _late(share)
            for share, task in zip(self.shares, self._tasks, strict=True)
        ]
        if index not in self._merged:
            began = time.perf_counter()
            with tracing.span("merge"):
                hits = _merge(parts, self._groups[index])
            metrics.MERGE_SECONDS.observe(time.perf_counter() - began)
            if not all(task.done() for task in self._tasks):
                return parts, hits
            self._merged[index] = hits
        return parts, self._merged[index]


def _late(share: Share) -> DeadlineExceeded:
    return DeadlineExceeded(f"partition {share.partition} did not answer in time")


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
