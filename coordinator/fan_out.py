"""Owns sending queries to all partitions: pending queries share one message to each partition and one merge.

A round is one such message to every partition. The next round starts when all partitions have answered or, if one
stalls, a moment later; each caller waits for that partition until its own deadline."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from coordinator.cluster import Cluster
from coordinator.coverage import CoverageTracker
from coordinator.routing import Share
from lookalike.cluster.hits import HitTable, merge
from lookalike.cluster.scan import ScanGroup, ScanResult, Scoring
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, LookalikeError
from lookalike.model.records import Coverage
from lookalike.server.batcher import Batcher
from lookalike.server.observe import metrics
from lookalike.server.observe.later import later
from lookalike.transport import tracing

MAX_ROUND_QUERIES = 1_024
MAX_WAITING_QUERIES = 16_384
_STALL_SECONDS = 0.25

ScanAnswer = ScanResult | LookalikeError
# Searches a share of the slots: on one replica, or on a majority.
ScanShare = Callable[[Share, Sequence[ScanGroup], float], Coroutine[Any, Any, list[ScanAnswer]]]


@dataclasses.dataclass(slots=True, eq=False)
class _Ticket:
    """One caller's queries.

    Attributes:
        group: The queries.
        deadline: When the caller gives up.
        round: The round that the queries were sent in; None before that.
        group_index: The index of the queries' group in the round.
        member: The index of these queries among the group's members.
        is_shared: Whether the group has other members.
    """

    group: ScanGroup
    deadline: float
    round: _Round | None = None
    group_index: int = 0
    member: int = 0
    is_shared: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """The answer for each share of the slots, what these answers cover, and the merged hits."""

    parts: Sequence[ScanAnswer]
    coverage: Coverage
    hits: HitTable


class FanOut:
    """Searches every slot once. Deadlines are times on the event loop's clock."""

    def __init__(self, cluster: Cluster, scan: ScanShare, coverage: CoverageTracker) -> None:
        self._cluster = cluster
        self._scan = scan
        self._coverage = coverage
        self._unfinished: set[_Round] = set()
        self._rounds: Batcher[_Ticket, _Round] = Batcher(
            self._run_round,
            max_weight=MAX_ROUND_QUERIES,
            max_waiting=MAX_WAITING_QUERIES,
            weigh=lambda ticket: ticket.group.weight,
        )

    async def close(self) -> None:
        await self._rounds.close()
        for sent in list(self._unfinished):
            await sent.close()

    @property
    def waiting(self) -> int:
        """Searches that wait for a round."""
        return self._rounds.waiting

    async def ask(self, group: ScanGroup, deadline: float) -> Answers:
        """Returns the answers that arrive by the deadline. If all callers of a round are cancelled, the round's
        RPCs are cancelled, which also stops the scans on the shards."""
        ticket = _Ticket(group, deadline)
        try:
            with tracing.span("fan-out", queries=len(group.codes)) as span:
                async with asyncio.timeout_at(deadline):
                    sent = await self._rounds.submit(ticket)
                if span is not None and sent.span is not None and sent.is_shared:
                    # The round's span is in the trace of one caller only, so the others link to it.
                    span.add_link(sent.span)
                answers = await sent.answer(ticket, deadline)
        except TimeoutError:
            shares = self._cluster.routing.shares
            late = [_late(share) for share in shares]
            return Answers(
                late, self._coverage.coverage(group.collection, shares, late), HitTable(len(group.codes))
            )
        finally:
            if ticket.round:
                ticket.round.leave()
        if ticket.is_shared and any(isinstance(part, InvalidRequest) for part in answers.parts):
            # Each caller's answer alone is within the limits, but the joint answer may exceed them.
            alone = await asyncio.gather(*(self._scan(share, [group], deadline) for share in sent.shares))
            parts = [answer[0] for answer in alone]
            coverage = self._coverage.coverage(group.collection, sent.shares, parts)
            return Answers(parts, coverage, _merge(parts, group))
        return answers

    async def _run_round(self, tickets: Sequence[_Ticket]) -> Sequence[_Round]:
        groups, sizes = _join(tickets)
        deadline = max(ticket.deadline for ticket in tickets)
        shares = self._cluster.routing.shares
        queries = sum(len(group.codes) for group in groups)
        later(metrics.ROUND_QUERIES.observe, queries)
        with tracing.span("round", queries=queries, requests=len(tickets)):
            tasks = [asyncio.create_task(self._scan(share, groups, deadline)) for share in shares]
            sent = _Round(shares, groups, sizes, tasks, len(tickets), self._coverage)
            self._unfinished.add(sent)
            sent.finished.add_done_callback(lambda _: self._unfinished.discard(sent))
            for ticket in tickets:
                ticket.round = sent
            try:
                await sent.finished_or_stalled()
            except asyncio.CancelledError:
                sent.cancel()
                raise
        return [sent] * len(tickets)


class _Round:
    """One RPC to every partition. sizes: for each group, the number of queries of each member."""

    def __init__(
        self,
        shares: Sequence[Share],
        groups: Sequence[ScanGroup],
        sizes: Sequence[Sequence[int]],
        tasks: Sequence[asyncio.Task[list[ScanAnswer]]],
        callers: int,
        coverage: CoverageTracker,
    ) -> None:
        self.shares = shares
        self._groups, self._sizes, self._tasks = groups, sizes, tasks
        self._callers = callers
        self._coverage = coverage
        self.is_shared = callers > 1
        self.span = tracing.current()
        # By group, once all partitions have answered: the answers to each member.
        self._answers: dict[int, list[Answers]] = {}
        self._running = len(tasks)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for task in tasks:
            task.add_done_callback(self._count_down)
        if not tasks:
            self.finished.set_result(None)

    def _count_down(self, _: asyncio.Task[list[ScanAnswer]]) -> None:
        self._running -= 1
        if not self._running:
            self.finished.set_result(None)

    async def finished_or_stalled(self) -> None:
        """Waits until all partitions have answered, but not longer than _STALL_SECONDS."""
        # asyncio.wait would take several times as long.
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self.finished.add_done_callback(functools.partial(_release, waiting))
        timer = loop.call_later(_STALL_SECONDS, _release, waiting)
        try:
            await waiting
        finally:
            timer.cancel()

    async def close(self) -> None:
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def leave(self) -> None:
        """Notes that a caller no longer needs the round. When the last caller leaves, the round's RPCs in flight
        are cancelled."""
        self._callers -= 1
        if not self._callers:
            self.cancel()

    async def answer(self, ticket: _Ticket, deadline: float) -> Answers:
        """Returns the answers to the ticket."""
        index = ticket.group_index
        if late := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(late, timeout=deadline - asyncio.get_running_loop().time())
        if index in self._answers:
            return self._answers[index][ticket.member]
        parts = [
            task.result()[index] if task.done() and not task.cancelled() else _late(share)
            for share, task in zip(self.shares, self._tasks, strict=True)
        ]
        began = time.perf_counter()
        with tracing.span("merge"):
            hits = _merge(parts, self._groups[index]).split(self._sizes[index])
        later(metrics.MERGE_SECONDS.observe, time.perf_counter() - began)
        coverage = self._coverage.coverage(self._groups[index].collection, self.shares, parts)
        answers = [Answers(parts, coverage, part) for part in hits]
        if not self._running:
            self._answers[index] = answers
        return answers[ticket.member]


def _release(waiting: asyncio.Future[None], *_: object) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _late(share: Share) -> DeadlineExceeded:
    return DeadlineExceeded(f"partition {share.partition} did not answer in time")


def _join(tickets: Sequence[_Ticket]) -> tuple[list[ScanGroup], list[list[int]]]:
    """Joins the groups that can share a scan, and notes in each ticket where its queries are. Returns the
    groups and, for each group, the number of queries of each member."""
    if len(tickets) == 1:
        return [tickets[0].group], [[len(tickets[0].group.codes)]]
    joinable: dict[object, list[_Ticket]] = {}
    for ticket in tickets:
        joinable.setdefault(ticket.group.batch_key, []).append(ticket)
    groups, sizes = [], []
    for index, members in enumerate(joinable.values()):
        for member, ticket in enumerate(members):
            ticket.group_index, ticket.member, ticket.is_shared = index, member, len(members) > 1
        first, *others = (ticket.group for ticket in members)
        groups.append(first.joined(others))
        sizes.append([len(ticket.group.codes) for ticket in members])
    return groups, sizes


def _merge(parts: Sequence[ScanAnswer], group: ScanGroup) -> HitTable:
    by_rank = group.scoring is Scoring.ASYMMETRIC
    hits = [part.hits for part in parts if isinstance(part, ScanResult)]
    return merge(hits, len(group.codes), group.k, by_rank)
