"""Admission: requests over the limit are refused at once, or wait for their turn; room is always freed."""

from __future__ import annotations

import asyncio

import pytest

from lookalike.model.errors import Overloaded
from lookalike.server.admission import Admission

MIB = 2**20


async def test_request_over_the_limit_is_refused_with_a_retry_after() -> None:
    admission = Admission(8 * MIB)
    with admission.admit(6 * MIB):
        with pytest.raises(Overloaded, match="retry later") as refusal, admission.admit(3 * MIB):
            pass
        assert refusal.value.retry_after_ms
        with admission.admit(MIB):
            assert admission.taken > 7 * MIB
    assert admission.taken == 0


async def test_request_above_the_limit_is_admitted_when_no_other_is_in_flight() -> None:
    admission = Admission(MIB)
    with admission.admit(5 * MIB), pytest.raises(Overloaded), admission.admit(1):
        pass
    with admission.admit(5 * MIB):
        pass


async def test_failure_frees_the_room() -> None:
    admission = Admission(MIB)
    with pytest.raises(ZeroDivisionError), admission.admit(MIB):
        _ = 1 / 0
    assert admission.taken == 0


async def test_streams_are_admitted_in_order_and_a_cancelled_one_blocks_no_other() -> None:
    admission = Admission(5 * MIB)
    order: list[int] = []

    async def wait(number: int, size: int) -> None:
        taken = await admission.take(size)
        order.append(number)
        admission.give_back(taken)

    first = await admission.take(3 * MIB)
    waiting = [asyncio.create_task(wait(number, size)) for number, size in enumerate((3 * MIB, 2 * MIB, 100))]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    assert order == []
    admission.give_back(first)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert order == [1, 2]
    assert admission.taken == 0


async def test_cancellation_at_the_moment_of_admission_frees_the_room() -> None:
    admission = Admission(MIB)
    first = await admission.take(MIB)
    waiting = asyncio.create_task(admission.take(MIB))
    await asyncio.sleep(0)
    admission.give_back(first)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert admission.taken == 0


async def test_streams_leave_room_for_single_requests() -> None:
    admission = Admission(100 * MIB)
    answered = asyncio.Event()

    async def stream() -> None:
        while not answered.is_set():
            taken = await admission.take(8 * MIB)
            await asyncio.sleep(0)
            admission.give_back(taken)

    streams = [asyncio.create_task(stream()) for _ in range(20)]
    for _ in range(200):
        await asyncio.sleep(0)
        with admission.admit(MIB):
            assert admission.taken <= 100 * MIB
    answered.set()
    await asyncio.gather(*streams)
    assert admission.taken == 0
