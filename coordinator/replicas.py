"""Owns the choice among a partition's replicas: which one is called, when another is called as well, and how many
must store a write.

A read goes to the healthiest replica with the fewest calls in flight. If the call is slower than the 95th
percentile of recent calls, a second replica is called too, within a budget of one call in twenty. If a call fails,
another replica is called at once. If too few replicas are up, a read fails at once."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from coordinator.hedging import Hedges
from coordinator.replica import Replica
from lookalike.cluster.columns import VersionedColumns
from lookalike.cluster.scan import ScanGroup, ScanResult, WriteResult
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
from lookalike.server.shard_client import ShardClient

# If a call takes this long, another replica is called, whatever the budget.
_STALL_SECONDS = 1.0
# A call is suspiciously slow after this many hedge delays.
_SUSPECT_AFTER = 3
# How long a write waits for replicas that are briefly unavailable, as in a restart.
WRITE_PATIENCE_SECONDS = 10.0
_WRITE_RETRY_SECONDS = 0.05
_WRITE_RETRY_MAX_SECONDS = 0.5
# How long an acknowledged write is still sent to the other replicas; after that, repair delivers it.
_LATECOMER_SECONDS = 2.0
_RELEASE_SECONDS = 0.5
# How long to wait for the answers of all replicas, where the first ones do not decide.
_ALL_ANSWERS_SECONDS = 2.0

Result = TypeVar("Result")


@dataclasses.dataclass(slots=True)
class _Attempt:
    replica: Replica
    began: float
    check_at: float = math.inf
    is_hedge: bool = False


class ReplicaGroup:
    """The replicas of one partition. Deadlines are times on the event loop's clock."""

    def __init__(self, partition: int, writes_needed: int) -> None:
        self.partition = partition
        self.replicas: list[Replica] = []
        self.writes_needed = writes_needed
        self._hedges = Hedges()
        self._turn = 0
        self._latecomers: set[asyncio.Task[WriteResult]] = set()

    @property
    def majority(self) -> int:
        return len(self.replicas) // 2 + 1

    async def close(self) -> None:
        for task in self._latecomers:
            task.cancel()
        await asyncio.gather(*self._latecomers, return_exceptions=True)

    def choose(self, but: Iterable[Replica] = ()) -> Replica | None:
        """Returns the replica to call next, or None if `but` contains all replicas. Never returns one of `but`."""
        excluded = set(but)
        self._turn += 1
        candidates = [
            (replica.health.penalty, replica.in_flight, (place + self._turn) % len(self.replicas), replica)
            for place, replica in enumerate(self.replicas)
            if replica not in excluded
        ]
        return min(candidates, key=lambda candidate: candidate[:3])[3] if candidates else None

    def first(
        self, call: Callable[[ShardClient], Awaitable[Result]], deadline: float
    ) -> Coroutine[Any, Any, Result]:
        """Returns the answer of one replica, when awaited. If all fail, raises the most informative of their
        errors."""
        return self._only(call) if len(self.replicas) == 1 else self._any(call, deadline)

    async def _any(self, call: Callable[[ShardClient], Awaitable[Result]], deadline: float) -> Result:
        return (await self.some(call, 1, deadline))[0][1]

    async def _only(self, call: Callable[[ShardClient], Awaitable[Result]]) -> Result:
        """Like `some`, for the partition's only replica: no other can be called as well, so the call needs no task
        of its own."""
        self._require_up(1)
        self._hedges.record_call()
        attempt = _Attempt(self.replicas[0], asyncio.get_running_loop().time())
        attempt.replica.in_flight += 1
        try:
            answer = await call(attempt.replica.client)
        except asyncio.CancelledError:
            self._note_silence(attempt)
            raise
        except LookalikeError as error:
            self._note_failure(attempt, error)
            raise
        finally:
            attempt.replica.in_flight -= 1
        self._note_answer(attempt)
        return answer

    async def some(
        self, call: Callable[[ShardClient], Awaitable[Result]], count: int, deadline: float
    ) -> list[tuple[ShardClient, Result]]:
        """Returns the answers of `count` replicas. If too many fail, raises the most informative of their
        errors."""
        loop = asyncio.get_running_loop()
        running: dict[asyncio.Task[Result], _Attempt] = {}
        tried: list[Replica] = []
        answers: list[tuple[ShardClient, Result]] = []
        failure: LookalikeError = PartitionUnavailable(f"partition {self.partition} has no replicas")
        self._require_up(count)
        self._hedges.record_call()

        def start(is_hedge: bool = False) -> bool:
            replica = self.choose(tried)
            if replica is None:
                return False
            tried.append(replica)
            now = loop.time()
            attempt = _Attempt(replica, now, now + self._hedges.delay, is_hedge)
            running[asyncio.create_task(_counted(replica, call))] = attempt
            return True

        try:
            while len(answers) < count:
                while len(running) + len(answers) < count and start():
                    pass
                if len(running) + len(answers) < count:
                    raise failure
                check_at = min(attempt.check_at for attempt in running.values())
                timeout = max(0.0, min(check_at, deadline) - loop.time())
                done, _ = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    if loop.time() >= deadline:
                        raise DeadlineExceeded(f"partition {self.partition} did not answer in time")
                    self._hedge(running.values(), start)
                for task in done:
                    attempt = running.pop(task)
                    try:
                        answer = task.result()
                    except LookalikeError as error:
                        failure = _more_informative(failure, error)
                        self._note_failure(attempt, error)
                        continue
                    self._note_answer(attempt)
                    answers.append((attempt.replica.client, answer))
            return answers
        finally:
            for task, attempt in running.items():
                self._note_silence(attempt)
                task.cancel()

    def _require_up(self, count: int) -> None:
        """Raises PartitionUnavailable if so many replicas are down that fewer than `count` could answer."""
        down = [replica for replica in self.replicas if replica.health.is_down]
        if down and len(self.replicas) - len(down) < count:
            first = down[0]
            raise PartitionUnavailable(
                f"partition {self.partition} (replica {first.replica}) at {first.client.address} has not answered"
                f" for {first.health.silent_seconds:.0f} s and is asked again every second; retry",
                retry_after_ms=1_000,
            )

    def _note_failure(self, attempt: _Attempt, error: LookalikeError) -> None:
        """Counts the failure if the replica caused it. Raises the error if every other replica would fail with it
        too."""
        replica = attempt.replica
        if isinstance(error, DeadlineExceeded):
            self._note_silence(attempt)
        elif type(error) is not PartitionUnavailable:
            replica.health.mark_answered()
        if not is_fault_of_replica(error):
            raise error
        replica.health.mark_failed(error)
        if not isinstance(error, SlotMoved):
            metrics.SHARD_FAILURES.labels(str(self.partition), str(replica.replica)).inc()

    def _note_silence(self, attempt: _Attempt) -> None:
        """Notes how long a call that is given up has waited."""
        seconds = asyncio.get_running_loop().time() - attempt.began
        attempt.replica.health.mark_unanswered(seconds)
        if seconds > _SUSPECT_AFTER * self._hedges.delay:
            attempt.replica.health.mark_suspect()

    def _note_answer(self, attempt: _Attempt) -> None:
        attempt.replica.health.mark_answered()
        self._hedges.record_latency(asyncio.get_running_loop().time() - attempt.began)
        if attempt.is_hedge:
            metrics.HEDGES_WON.labels(str(self.partition)).inc()

    def _hedge(self, running: Collection[_Attempt], start: Callable[[bool], bool]) -> None:
        """When a call is slow, calls another replica if one is left and the budget allows it. If the call has
        stalled, the budget does not matter."""
        now = asyncio.get_running_loop().time()
        slow = [attempt for attempt in running if now >= attempt.check_at]
        stalled = any(now - attempt.began >= _STALL_SECONDS for attempt in slow)
        for attempt in slow:
            attempt.check_at = now + _STALL_SECONDS / 4
        if (stalled or self._hedges.spend()) and start(True):
            metrics.HEDGES_SENT.labels(str(self.partition)).inc()

    async def scan(
        self, groups: Sequence[ScanGroup], slots: bytes, deadline: float
    ) -> list[ScanResult | LookalikeError]:
        """Returns one replica's answer to each group of queries, or an error in its place."""

        async def scan(client: ShardClient) -> list[ScanResult | LookalikeError]:
            answers = await client.scan(groups, slots, deadline)
            for answer in answers:
                # The failure is this replica's own: another one may succeed.
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
        records: Sequence[VersionedRecord] | VersionedColumns,
        deadline: float,
        bases: Sequence[int] | None = None,
        is_reserved: bool = False,
    ) -> list[WriteResult]:
        """Stores the records on `writes_needed` replicas, and goes on trying the others in the background. With
        `bases`, reserves their keys instead: see `ShardClient.write`, also for `is_reserved`.

        Returns:
            The answers of the replicas that stored the records.

        Raises:
            SlotMoved: If the partition is no longer part of the cluster.
            LookalikeError: If too few replicas stored the records; the text says that some replicas may have.
        """
        loop = asyncio.get_running_loop()
        give_up_at = min(deadline, loop.time() + WRITE_PATIENCE_SECONDS)

        async def write(client: ShardClient) -> WriteResult:
            wait = _WRITE_RETRY_SECONDS
            is_repeated = False
            while True:
                try:
                    answer = await client.write(
                        collection, fingerprint, features, records, deadline, bases, is_reserved
                    )
                    return dataclasses.replace(answer, is_repeated=is_repeated)
                except PartitionUnavailable as error:
                    if client.is_retired or loop.time() + wait >= give_up_at:
                        raise error
                is_repeated = True
                await asyncio.sleep(wait)
                wait = min(2 * wait, _WRITE_RETRY_MAX_SECONDS)

        tasks = {asyncio.create_task(write(replica.client)): replica for replica in self.replicas}
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
                        self._finish_in_background(tasks)
                        is_conditional = is_reserved or bases is not None
                        if is_conditional and any(answer.superseded for answer in results):
                            return await _all_answers(tasks)
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

    async def unreserve(
        self, collection: str, fingerprint: str, features: str, records: Sequence[VersionedRecord]
    ) -> None:
        """Ends the reservations of these records' keys on the replicas that answer soon; the others' expire."""
        deadline = asyncio.get_running_loop().time() + _RELEASE_SECONDS
        await asyncio.gather(
            *(
                replica.client.unreserve(collection, fingerprint, features, records, deadline)
                for replica in self.replicas
            ),
            return_exceptions=True,
        )

    def _finish_in_background(self, tasks: dict[asyncio.Task[WriteResult], Replica]) -> None:
        """Waits a while for the replicas that have not answered. Marks each replica that does not store the write
        as lagging."""
        now = time.monotonic()
        for task, replica in tasks.items():
            if task.done():
                if task.cancelled() or task.exception() is not None:
                    replica.health.mark_missed_write(now)
                continue
            self._latecomers.add(task)
            timer = asyncio.get_running_loop().call_later(_LATECOMER_SECONDS, task.cancel)

            def finished(
                task: asyncio.Task[WriteResult], replica: Replica = replica, timer: asyncio.TimerHandle = timer
            ) -> None:
                timer.cancel()
                self._latecomers.discard(task)
                if task.cancelled() or task.exception() is not None:
                    replica.health.mark_missed_write(now)

            task.add_done_callback(finished)

    def _below_quorum(self, stored: int, errors: Sequence[LookalikeError]) -> LookalikeError:
        worst = errors[-1] if errors else PartitionUnavailable("no replica answered")
        for error in errors:
            if not isinstance(error, PartitionUnavailable | DeadlineExceeded):
                worst = error
        if len(self.replicas) == 1 or not isinstance(worst, PartitionUnavailable | DeadlineExceeded):
            return worst
        text = (
            f"partition {self.partition}: {stored} of {len(self.replicas)} replicas stored the write,"
            f" {self.writes_needed} are needed ({worst.message}); it may have been applied: repeat it, which is"
            " harmless"
        )
        return type(worst)(text, retry_after_ms=worst.retry_after_ms)


async def _counted(replica: Replica, call: Callable[[ShardClient], Awaitable[Result]]) -> Result:
    replica.in_flight += 1
    try:
        return await call(replica.client)
    finally:
        replica.in_flight -= 1


async def _all_answers(tasks: Iterable[asyncio.Task[WriteResult]]) -> list[WriteResult]:
    """The answers of all replicas, as far as they come soon: some may accept what others refuse."""
    done, _ = await asyncio.wait(tasks, timeout=_ALL_ANSWERS_SECONDS)
    return [task.result() for task in done if not task.cancelled() and task.exception() is None]


def _cancel(tasks: Iterable[asyncio.Task[WriteResult]]) -> None:
    for task in tasks:
        task.cancel()
        # A failed task's exception was handled already: retrieve it, so that asyncio does not log it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())


def is_fault_of_replica(error: LookalikeError) -> bool:
    """Returns whether the replica, and not the request, caused the error, so that another replica may succeed."""
    return isinstance(error, PartitionUnavailable | Corruption | Overloaded | NotFound)


def _more_informative(one: LookalikeError, other: LookalikeError) -> LookalikeError:
    """Returns the more informative of two replicas' failures."""
    if isinstance(one, Corruption) or (isinstance(one, SlotMoved) and type(other) is PartitionUnavailable):
        return one
    return other
