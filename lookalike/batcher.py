"""Owns coalescing: items that arrive while a batch runs wait, and share the next batch.

Serves the coordinator (queries to a partition share an RPC), the shard (queries share a scan, writes
share a commit) and the encoder (images share a forward pass). Its queue is bounded; an item whose caller
went away is dropped, and a batch that nobody waits for any more is cancelled."""

from __future__ import annotations

import asyncio
import collections
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from lookalike.errors import Overloaded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Runs items in batches of weight `max_weight` at most (one item may exceed it alone), at most
    `concurrency` batches at once, with items of weight `max_waiting` at most in the queue.

    `run` gets the items and returns one result per item, in order; an exception instance among the
    results is raised for its item alone, an exception raised by `run` for all of the batch."""

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
        self._run = run
        self._weigh = weigh
        self._max_weight = max_weight
        self._max_waiting = max_waiting
        self._concurrency = concurrency
        self._retry_after_ms = retry_after_ms
        self._waiting: collections.deque[tuple[Item, int, asyncio.Future[Result]]] = collections.deque()
        self._waiting_weight = 0
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """The item's result. Raises Overloaded when the queue is full."""
        weight = self._weigh(item)
        if self._waiting and self._waiting_weight + weight > self._max_waiting:
            raise Overloaded(
                f"{self._waiting_weight:,} items are waiting; come back later",
                retry_after_ms=self._retry_after_ms,
            )
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, weight, future))
        self._waiting_weight += weight
        self._start_batches()
        return await future

    async def close(self) -> None:
        """Cancel what runs and what waits."""
        for _, _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._waiting_weight = 0
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_batches(self) -> None:
        while self._waiting and len(self._running) < self._concurrency:
            batch = self._take_batch()
            if not batch:
                return
            task = asyncio.create_task(self._run_batch(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)
            cancel_unwanted = functools.partial(_cancel_unwanted, task, [future for _, future in batch])
            for _, future in batch:
                future.add_done_callback(cancel_unwanted)

    def _take_batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        total = 0
        while self._waiting:
            item, weight, future = self._waiting[0]
            if batch and total + weight > self._max_weight:
                break
            self._waiting.popleft()
            self._waiting_weight -= weight
            if not future.done():
                batch.append((item, future))
                total += weight
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
        self._start_batches()


def _cancel_unwanted(
    task: asyncio.Task[None], batch: list[asyncio.Future[Result]], _: asyncio.Future[Result]
) -> None:
    if not task.done() and all(future.cancelled() for future in batch):
        task.cancel()
