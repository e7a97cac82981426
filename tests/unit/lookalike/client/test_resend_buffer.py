"""Messages of a stream that breaks: the next one begins with the first that was not answered, and none is lost
to a reader that went."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator

from lookalike.client.resend_buffer import AsyncResendBuffer, ResendBuffer


def test_another_stream_begins_with_what_was_not_answered() -> None:
    messages = ResendBuffer(iter(range(6)))
    first = messages.stream()
    assert [next(first) for _ in range(4)] == [0, 1, 2, 3]
    messages.acknowledge()
    messages.acknowledge()
    assert list(messages.stream()) == [2, 3, 4, 5]
    assert list(itertools.islice(messages.stream(), 2)) == [2, 3]


def test_what_a_broken_streams_thread_read_last_is_not_lost() -> None:
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


async def test_a_reader_that_is_cancelled_leaves_the_source_whole() -> None:
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
