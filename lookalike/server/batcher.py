"""Owns batching: while a batch is running, new items wait in a queue, and the next batch takes them together.

In the coordinator, queries share a message to each partition; in a shard, queries share a scan and writes share a
commit; in the encoder, images share a forward pass. An item that finds nothing to wait for, and with which no
other arrives, runs alone, in its caller's task. The queue is bounded. An item whose caller left is dropped,
and a batch without callers is cancelled. A batch carries the request ids of all its items
(`lookalike.transport.requests`)."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from lookalike.model.errors import Overloaded
from lookalike.transport import requests

Item = TypeVar("Item")
Result = TypeVar("Result")


# How often an item lets the event loop handle further arrivals, while there are some, before its batch starts.
_GATHERING_TURNS = 8


@dataclasses.dataclass(slots=True)
class _Entry(Generic[Item, Result]):
    item: Item
    weight: int
    future: asyncio.Future[Result]
    origin: requests.Origin

    def take_weight(self) -> int:
        """Returns the weight that the entry still occupies in the queue; 0 from the second call on."""
        weight, self.weight = self.weight, 0
        return weight


class Batcher(Generic[Item, Result]):
    """Runs items in batches."""

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_weight: int,
        max_waiting: int,
        concurrency: int = 1,
        weigh: Callable[[Item], int] = lambda item: 1,
        retry_after_ms: int = 100,
    ) -> None:
        """Makes an empty queue.

        Args:
            run: Gets a batch and returns one result per item, in order. An exception instance among the results is
                raised for its item only. An exception that `run` raises is raised for every item of the batch.
            max_weight: The largest weight of a batch; a single item may exceed it.
            max_waiting: The largest weight of the queue; a single item may exceed it.
            concurrency: The largest number of batches that run at once.
            weigh: The weight of an item.
            retry_after_ms: The delay that a refused caller is asked to wait.
        """
        self._run = run
        self._weigh = weigh
        self._max_weight = max_weight
        self._max_waiting = max_waiting
        self._concurrency = concurrency
        self._retry_after_ms = retry_after_ms
        self._waiting: collections.deque[_Entry[Item, Result]] = collections.deque()
        self._waiting_weight = 0
        self._running: set[asyncio.Task[None]] = set()
        # Items that run in their callers' tasks.
        self._alone = 0
        # Whether an item waits for others that arrive with it.
        self._is_gathering = False

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not (self._waiting or self._running or self._alone or self._is_gathering)

    async def submit(self, item: Item) -> Result:
        """Returns the item's result. Raises Overloaded if the queue is full."""
        is_first = not self._waiting and not self._is_gathering and self._has_room
        if is_first and await self._stays_alone():
            return await self._run_alone(item)
        weight = self._weigh(item)
        if not is_first and self._waiting and self._waiting_weight + weight > self._max_waiting:
            raise Overloaded(
                f"{self._waiting_weight:,} items are waiting; retry later",
                retry_after_ms=self._retry_after_ms,
            )
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        entry = _Entry(item, weight, future, requests.origin())
        add = self._waiting.appendleft if is_first else self._waiting.append
        add(entry)
        self._waiting_weight += weight
        self._start_batches()
        try:
            return await entry.future
        finally:
            # A caller that is cancelled frees its room in the queue at once.
            self._waiting_weight -= entry.take_weight()

    async def close(self) -> None:
        """Cancels running batches and waiting items."""
        for entry in self._waiting:
            entry.future.cancel()
        self._waiting.clear()
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _has_room(self) -> bool:
        return len(self._running) + self._alone < self._concurrency

    async def _stays_alone(self) -> bool:
        """Gathers the items that arrive at the same time as this one: under load, that is many, because the event
        loop handles all arrivals before it continues here. Returns whether none arrived."""
        self._is_gathering = True
        arrived = 0
        try:
            for _ in range(_GATHERING_TURNS):
                await asyncio.sleep(0)
                if len(self._waiting) == arrived:
                    break
                arrived = len(self._waiting)
        except asyncio.CancelledError:
            self._is_gathering = False
            self._start_batches()
            raise
        self._is_gathering = False
        return not self._waiting

    async def _run_alone(self, item: Item) -> Result:
        self._alone += 1
        try:
            results = await self._run([item])
        finally:
            self._alone -= 1
            self._start_batches()
        assert len(results) == 1, "run must return one result per item"
        result = results[0]
        if isinstance(result, Exception):
            raise result
        return result

    def _start_batches(self) -> None:
        while self._waiting and self._has_room and not self._is_gathering:
            batch = self._take_batch()
            if not batch:
                return
            context = requests.together([entry.origin for entry in batch])
            task = asyncio.create_task(self._run_batch(batch), context=context)
            self._running.add(task)
            task.add_done_callback(self._finished)
            futures = [entry.future for entry in batch]
            for future in futures:
                future.add_done_callback(functools.partial(_cancel_unwanted, task, futures))

    def _take_batch(self) -> list[_Entry[Item, Result]]:
        batch: list[_Entry[Item, Result]] = []
        total = 0
        while self._waiting:
            entry = self._waiting[0]
            if batch and total + entry.weight > self._max_weight:
                break
            self._waiting.popleft()
            if not entry.future.done():
                batch.append(entry)
                total += entry.weight
            self._waiting_weight -= entry.take_weight()
        return batch

    async def _run_batch(self, batch: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._run([entry.item for entry in batch])
            assert len(results) == len(batch), "run must return one result per item"
        except asyncio.CancelledError:
            for entry in batch:
                entry.future.cancel()
            raise
        except Exception as error:
            results = [error] * len(batch)
        for entry, result in zip(batch, results, strict=True):
            if entry.future.done():
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
            else:
                entry.future.set_result(result)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_batches()


def _cancel_unwanted(
    task: asyncio.Task[None], batch: list[asyncio.Future[Result]], _: asyncio.Future[Result]
) -> None:
    if not task.done() and all(future.cancelled() for future in batch):
        task.cancel()
