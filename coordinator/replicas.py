"""Owns the choice among a partition's replicas: which is asked, when another is asked as well, how many must have
a write.

A read goes to the replica that serves, does not lag and has the fewest calls on their way. If it is slower than 95
of 100 calls were lately, another is asked too, within a budget of one in twenty; if it fails, another at once."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TypeVar

from coordinator.shard_link import ShardLink
from lookalike.cluster.scan import ScanGroup, ScanHits, WriteResult
from lookalike.model.errors import (
    Corruption,
    DeadlineExceeded,
    LookalikeError,
    NotFound,
    Overloaded,
    PartitionUnavailable,
    SlotMoved,
)
from lookalike.model.records import VersionedRecord
from lookalike.server.observe import metrics

log = logging.getLogger("coordinator.replicas")
HEDGE_SHARE = 0.05
_HEDGES_SAVED = 5.0
_LATENCIES = 200
_FEW_LATENCIES = 20
_FIRST_HEDGE_SECONDS = 0.05
_LEAST_HEDGE_SECONDS = 0.002
# A call that takes so long is given up for another replica, whatever the budget.
_STALL_SECONDS = 1.0
_SUSPECT_AFTER = 3
# How long a write waits for replicas that are away for a moment, as in a restart.
WRITE_PATIENCE_SECONDS = 10.0
_WRITE_RETRY_SECONDS = 0.05
_WRITE_RETRY_MAX_SECONDS = 0.5
# How long a write that is acknowledged is still tried at the other replicas; after that, repair brings it there.
_LATECOMER_SECONDS = 2.0

Result = TypeVar("Result")


class Hedges:
    """When to ask a second replica: the delay follows the latencies of late, the budget the calls."""

    def __init__(self) -> None:
        self._latencies: collections.deque[float] = collections.deque(maxlen=_LATENCIES)
        self._budget = _HEDGES_SAVED
        self._delay = _FIRST_HEDGE_SECONDS
        self._since = 0

    def called(self) -> None:
        self._budget = min(_HEDGES_SAVED, self._budget + HEDGE_SHARE)

    def answered(self, seconds: float) -> None:
        self._latencies.append(seconds)
        self._since += 1
        if len(self._latencies) >= _FEW_LATENCIES and self._since >= _FEW_LATENCIES:
            self._since = 0
            ordered = sorted(self._latencies)
            self._delay = max(_LEAST_HEDGE_SECONDS, ordered[int(len(ordered) * 0.95)])

    @property
    def delay(self) -> float:
        """Seconds after which a call is slow: the 95th percentile of late."""
        return self._delay

    def spend(self) -> bool:
        """Whether the budget allows for one more call."""
        if self._budget < 1:
            return False
        self._budget -= 1
        return True


@dataclasses.dataclass(slots=True)
class _Attempt:
    link: ShardLink
    began: float
    look_at: float
    is_hedge: bool


class ReplicaGroup:
    """The replicas of one partition. Deadlines are times of the running loop's clock."""

    def __init__(self, partition: int, writes_needed: int) -> None:
        self.partition = partition
        self.links: list[ShardLink] = []
        self.writes_needed = writes_needed
        self._hedges = Hedges()
        self._turn = 0
        self._latecomers: set[asyncio.Task[WriteResult]] = set()

    @property
    def majority(self) -> int:
        return len(self.links) // 2 + 1

    async def close(self) -> None:
        for task in self._latecomers:
            task.cancel()
        await asyncio.gather(*self._latecomers, return_exceptions=True)

    def choose(self, but: Iterable[ShardLink] = ()) -> ShardLink | None:
        """The replica to ask next; None if all were."""
        excluded = set(but)
        self._turn += 1
        candidates = [
            (link.reluctance, link.outstanding, (place + self._turn) % len(self.links), link)
            for place, link in enumerate(self.links)
            if link not in excluded
        ]
        return min(candidates, key=lambda candidate: candidate[:3])[3] if candidates else None

    async def first(self, call: Callable[[ShardLink], Awaitable[Result]], deadline: float) -> Result:
        """The answer of one replica; raises what the last one raised when all failed."""
        return (await self.some(call, 1, deadline))[0][1]

    async def some(
        self, call: Callable[[ShardLink], Awaitable[Result]], count: int, deadline: float
    ) -> list[tuple[ShardLink, Result]]:
        """The answers of so many replicas. Raises what the last one raised when too few are left."""
        loop = asyncio.get_running_loop()
        running: dict[asyncio.Task[Result], _Attempt] = {}
        tried: list[ShardLink] = []
        answers: list[tuple[ShardLink, Result]] = []
        failure: LookalikeError = PartitionUnavailable(f"partition {self.partition} has no replicas")
        self._hedges.called()

        def start(is_hedge: bool = False) -> bool:
            link = self.choose(tried)
            if link is None:
                return False
            tried.append(link)
            now = loop.time()
            attempt = _Attempt(link, now, now + self._hedges.delay, is_hedge)
            running[asyncio.create_task(_counted(link, call))] = attempt
            return True

        try:
            while len(answers) < count:
                while len(running) + len(answers) < count and start():
                    pass
                if len(running) + len(answers) < count:
                    raise failure
                look_at = min(attempt.look_at for attempt in running.values())
                timeout = max(0.0, min(look_at, deadline) - loop.time())
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    if loop.time() >= deadline:
                        raise DeadlineExceeded(f"partition {self.partition} did not answer in time")
                    self._look(running.values(), start)
                for task in done:
                    attempt = running.pop(task)
                    try:
                        answer = task.result()
                    except LookalikeError as error:
                        failure = _worse(failure, error)
                        attempt.link.failed(error)
                        metrics.SHARD_FAILURES.labels(str(self.partition), str(attempt.link.replica)).inc()
                        if not another_may_do_better(error):
                            raise
                        continue
                    self._hedges.answered(loop.time() - attempt.began)
                    answers.append((attempt.link, answer))
                    if attempt.is_hedge:
                        metrics.HEDGES_WON.labels(str(self.partition)).inc()
            return answers
        finally:
            for task, attempt in running.items():
                if loop.time() - attempt.began > _SUSPECT_AFTER * self._hedges.delay:
                    attempt.link.suspect()
                task.cancel()

    def _look(self, running: Collection[_Attempt], start: Callable[[bool], bool]) -> None:
        """Somebody is slow: ask another, if there is one and the budget allows it or the wait is too long."""
        now = asyncio.get_running_loop().time()
        slow = [attempt for attempt in running if now >= attempt.look_at]
        stalled = any(now - attempt.began >= _STALL_SECONDS for attempt in slow)
        for attempt in slow:
            attempt.look_at = now + _STALL_SECONDS / 4
        if (stalled or self._hedges.spend()) and start(True):
            metrics.HEDGES_SENT.labels(str(self.partition)).inc()

    async def scan(
        self, groups: Sequence[ScanGroup], slots: bytes, deadline: float
    ) -> list[ScanHits | LookalikeError]:
        """The answer of one replica to each group of queries, or why there is none."""

        async def scan(link: ShardLink) -> list[ScanHits | LookalikeError]:
            answers = await link.scan(groups, slots, deadline)
            for answer in answers:
                # This replica's own trouble; the others may be sound.
                if isinstance(answer, Corruption | SlotMoved):
                    raise answer
            return answers

        try:
            return await self.first(scan, deadline)
        except LookalikeError as error:
            return [error] * len(groups)

    async def write(
        self,
        collection: str,
        fingerprint: str,
        features: str,
        records: Sequence[VersionedRecord],
        deadline: float,
    ) -> list[WriteResult]:
        """Have the records stored by so many replicas as are needed; those that are left are tried on. Returns
        what they answered. Raises when there were too few, and says that some may have stored them; SlotMoved if
        the partition is no longer part of the cluster."""
        loop = asyncio.get_running_loop()
        give_up = min(deadline, loop.time() + WRITE_PATIENCE_SECONDS)

        async def write(link: ShardLink) -> WriteResult:
            wait = _WRITE_RETRY_SECONDS
            while True:
                try:
                    return await link.write(collection, fingerprint, features, records, deadline)
                except PartitionUnavailable as error:
                    if link.is_let_go or loop.time() + wait >= give_up:
                        raise error
                await asyncio.sleep(wait)
                wait = min(2 * wait, _WRITE_RETRY_MAX_SECONDS)

        tasks = {asyncio.create_task(write(link)): link for link in self.links}
        results: list[WriteResult] = []
        errors: list[LookalikeError] = []
        try:
            async with asyncio.timeout_at(deadline):
                for done in asyncio.as_completed(tasks):
                    try:
                        results.append(await done)
                    except LookalikeError as error:
                        errors.append(error)
                    if len(results) >= self.writes_needed:
                        self._let_finish(tasks)
                        return results
                    if len(tasks) - len(errors) < self.writes_needed:
                        break
        except TimeoutError:
            errors.append(DeadlineExceeded(f"partition {self.partition} did not answer in time"))
        except asyncio.CancelledError:
            _cancel(tasks)
            raise
        _cancel(tasks)
        raise self._below_quorum(len(results), errors)

    def _let_finish(self, tasks: dict[asyncio.Task[WriteResult], ShardLink]) -> None:
        """Go on with the replicas that have not answered, for a while; who then has not is behind."""
        now = time.monotonic()
        for task, link in tasks.items():
            if task.done():
                if task.cancelled() or task.exception() is not None:
                    link.missed(now)
                continue
            self._latecomers.add(task)
            timer = asyncio.get_running_loop().call_later(_LATECOMER_SECONDS, task.cancel)

            def finished(
                task: asyncio.Task[WriteResult], link: ShardLink = link, timer: asyncio.TimerHandle = timer
            ) -> None:
                timer.cancel()
                self._latecomers.discard(task)
                if task.cancelled() or task.exception() is not None:
                    link.missed(now)

            task.add_done_callback(finished)

    def _below_quorum(self, stored: int, errors: Sequence[LookalikeError]) -> LookalikeError:
        worst = errors[-1] if errors else PartitionUnavailable("nobody answered")
        for error in errors:
            if not isinstance(error, PartitionUnavailable | DeadlineExceeded):
                worst = error
        if len(self.links) == 1 or not isinstance(worst, PartitionUnavailable | DeadlineExceeded):
            return worst
        text = (
            f"partition {self.partition}: {stored} of {len(self.links)} replicas stored the write,"
            f" {self.writes_needed} are needed ({worst.message}); it may have been applied: repeat it, which is"
            " harmless"
        )
        return type(worst)(text, retry_after_ms=worst.retry_after_ms)


async def _counted(link: ShardLink, call: Callable[[ShardLink], Awaitable[Result]]) -> Result:
    link.outstanding += 1
    try:
        return await call(link)
    finally:
        link.outstanding -= 1


def _cancel(tasks: Iterable[asyncio.Task[WriteResult]]) -> None:
    for task in tasks:
        task.cancel()
        # Whoever failed was counted already.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


def another_may_do_better(error: LookalikeError) -> bool:
    """Whether the failure is the replica's own, not the request's."""
    return isinstance(error, PartitionUnavailable | Corruption | Overloaded | NotFound)


def _worse(one: LookalikeError, other: LookalikeError) -> LookalikeError:
    """Of two replicas' failures the one that says more."""
    if isinstance(one, Corruption) or (isinstance(one, SlotMoved) and type(other) is PartitionUnavailable):
        return one
    return other
