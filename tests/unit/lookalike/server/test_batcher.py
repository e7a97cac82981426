"""The batcher: who shares a batch, who is refused, and what cancellation does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from lookalike.model.errors import InvalidRequest, Overloaded
from lookalike.server.batcher import Batcher


class Gate:
    """A `run` that records its batches and waits until it is let through."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.cancelled = 0
        self.open = asyncio.Event()

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return [InvalidRequest("odd") if item % 2 else item * 10 for item in items]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def submit_in_turn(batcher: Batcher[int, int], items: Sequence[int]) -> list[asyncio.Task[int]]:
    """Submits the first item, and the others once it runs."""
    first, *others = items
    tasks = [asyncio.create_task(batcher.submit(first))]
    await settle()
    return tasks + [asyncio.create_task(batcher.submit(item)) for item in others]


async def test_items_that_arrive_together_share_a_batch() -> None:
    gate = Gate()
    gate.open.set()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=3, max_waiting=2)
    # The first is not refused, although the others fill the queue.
    assert await asyncio.gather(*map(batcher.submit, (0, 2, 4))) == [0, 20, 40]
    assert gate.batches == [[0, 2, 4]]


async def test_an_item_that_leaves_while_others_arrive_does_not_hold_them_up() -> None:
    gate = Gate()
    gate.open.set()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=3, max_waiting=2)
    first, second = (asyncio.create_task(batcher.submit(item)) for item in (0, 2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 20
    assert gate.batches == [[2]]
    assert batcher.is_idle


async def test_items_that_arrive_while_a_batch_runs_share_the_next() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=3, max_waiting=100)
    tasks = await submit_in_turn(batcher, (0, 2, 4, 6, 8))
    await settle()
    assert gate.batches == [[0]]
    gate.open.set()
    assert await asyncio.gather(*tasks) == [0, 20, 40, 60, 80]
    assert gate.batches == [[0], [2, 4, 6], [8]]


async def test_error_result_is_raised_for_its_item_only() -> None:
    gate = Gate()
    gate.open.set()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=10, max_waiting=100, concurrency=2)
    results = await asyncio.gather(*map(batcher.submit, range(4)), return_exceptions=True)
    assert [r if isinstance(r, int) else type(r) for r in results] == [0, InvalidRequest, 20, InvalidRequest]


async def test_failed_run_fails_its_whole_batch_and_no_other() -> None:
    calls = 0

    async def run(items: Sequence[int]) -> list[int | Exception]:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        if calls == 2:
            raise RuntimeError("broken")
        return list(items)

    batcher: Batcher[int, int] = Batcher(run, max_weight=2, max_waiting=100)
    results = await asyncio.gather(*map(batcher.submit, range(5)), return_exceptions=True)
    assert [r if isinstance(r, int) else type(r) for r in results] == [0, 1, RuntimeError, RuntimeError, 4]


async def test_full_queue_refuses_with_a_retry_after() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=1, max_waiting=2, retry_after_ms=70)
    tasks = await submit_in_turn(batcher, (0, 2, 4))
    await settle()
    with pytest.raises(Overloaded) as refusal:
        await batcher.submit(6)
    assert refusal.value.retry_after_ms == 70
    gate.open.set()
    assert await asyncio.gather(*tasks) == [0, 20, 40]


async def test_item_heavier_than_the_limit_runs_alone() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=10, max_waiting=100, weigh=lambda item: item)
    tasks = await submit_in_turn(batcher, (2, 40, 4, 6, 8))
    await settle()
    gate.open.set()
    await asyncio.gather(*tasks)
    assert gate.batches == [[2], [40], [4, 6], [8]]


async def test_waiting_item_of_a_cancelled_caller_is_dropped() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=10, max_waiting=100)
    first, second, third = await submit_in_turn(batcher, (0, 2, 4))
    await settle()
    second.cancel()
    gate.open.set()
    assert await asyncio.gather(first, third) == [0, 40]
    assert gate.batches == [[0], [4]]


async def test_batch_is_cancelled_only_when_all_its_callers_left() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=10, max_waiting=100)
    blocker = asyncio.create_task(batcher.submit(0))
    await settle()
    pair = [asyncio.create_task(batcher.submit(item)) for item in (2, 4)]
    await settle()
    blocker.cancel()
    await settle()
    assert (gate.cancelled, gate.batches) == (1, [[0], [2, 4]])
    pair[0].cancel()
    await settle()
    assert gate.cancelled == 1
    pair[1].cancel()
    await settle()
    assert gate.cancelled == 2


async def test_close_cancels_running_and_waiting_items() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=1, max_waiting=100)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in (0, 2)]
    await settle()
    await batcher.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


async def test_cancelled_item_frees_its_room_at_once() -> None:
    gate = Gate()
    batcher: Batcher[int, int] = Batcher(gate.run, max_weight=1, max_waiting=2)
    tasks = await submit_in_turn(batcher, (0, 2, 4))
    await settle()
    tasks[1].cancel()
    tasks[2].cancel()
    await settle()
    later = asyncio.create_task(batcher.submit(6))
    await settle()
    gate.open.set()
    assert await asyncio.gather(tasks[0], later) == [0, 60]


async def test_wrong_number_of_results_fails_the_batch_and_not_the_batcher() -> None:
    answers = iter([[], [1]])

    async def run(items: Sequence[int]) -> list[int | Exception]:
        return list(next(answers))

    batcher: Batcher[int, int] = Batcher(run, max_weight=1, max_waiting=9)
    with pytest.raises(AssertionError, match="one result per item"):
        await batcher.submit(0)
    assert await batcher.submit(1) == 1


async def test_an_item_that_finds_nothing_to_wait_for_runs_in_its_callers_task() -> None:
    tasks = []

    async def run(items: Sequence[int]) -> list[int | Exception]:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        return list(items)

    batcher: Batcher[int, int] = Batcher(run, max_weight=10, max_waiting=100)
    assert batcher.is_idle
    alone = asyncio.create_task(batcher.submit(0))
    await asyncio.sleep(0)
    assert not batcher.is_idle
    assert await alone == 0
    assert batcher.is_idle
    together = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
    assert await asyncio.gather(*together) == [1, 2]
    assert (len(tasks), tasks[0]) == (2, alone)
    assert tasks[1] not in together
