"""Messages of a stream that breaks: the next stream begins with the first unacknowledged message, and the reader
of the broken one loses none."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator

from lookalike.client.resend_buffer import AsyncResendBuffer, ResendBuffer


def test_next_stream_begins_with_the_first_unacknowledged_message() -> None:
    messages = ResendBuffer(iter(range(6)))
    first = messages.stream()
    assert [next(first) for _ in range(4)] == [0, 1, 2, 3]
    messages.acknowledge()
    messages.acknowledge()
    assert list(messages.stream()) == [2, 3, 4, 5]
    assert list(itertools.islice(messages.stream(), 2)) == [2, 3]


def test_message_read_by_a_broken_streams_thread_is_not_lost() -> None:
    asked, given = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield 0
        asked.set()
        assert given.wait(10)
        yield 1

    messages = ResendBuffer(source())
    broken = messages.stream()
    assert next(broken) == 0
    reader = threading.Thread(target=lambda: next(broken))
    reader.start()
    assert asked.wait(10)
    again = messages.stream()
    assert next(again) == 0
    messages.acknowledge()
    given.set()
    assert next(again) == 1
    reader.join(10)
    assert list(again) == []


def test_closed_buffer_reads_no_more_of_the_source() -> None:
    source = iter(range(6))
    messages = ResendBuffer(source)
    stream = messages.stream()
    assert next(stream) == 0
    messages.close()
    assert list(stream) == []
    assert next(source) == 1


async def test_cancelled_reader_does_not_cancel_the_source() -> None:
    given = asyncio.Event()
    ended = []

    async def source() -> AsyncIterator[int]:
        try:
            yield 0
            await given.wait()
            yield 1
        finally:
            ended.append(True)

    messages = AsyncResendBuffer(source())
    broken = messages.stream()
    assert await anext(broken) == 0
    reader = asyncio.ensure_future(anext(broken))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert not ended
    given.set()
    assert [message async for message in messages.stream()] == [0, 1]
    await messages.close()
