"""Owns an ingest stream's messages until each is acknowledged, so that a new stream continues where a broken one
stopped: at the first unacknowledged message. Sending a message twice is harmless."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

Message = TypeVar("Message")


class _Window(Generic[Message]):
    """The unacknowledged messages, by their index in the whole stream."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: collections.deque[Message] = collections.deque()
        self.first = 0
        self.is_ended = False

    def add(self, message: Message) -> None:
        with self._lock:
            self._messages.append(message)

    def has(self, index: int) -> bool:
        with self._lock:
            return index < self.first + len(self._messages)

    def at(self, index: int) -> Message | None:
        """None for an acknowledged message, which a broken stream may still request."""
        with self._lock:
            return self._messages[index - self.first] if index >= self.first else None

    def acknowledge(self) -> None:
        with self._lock:
            self._messages.popleft()
            self.first += 1


class ResendBuffer(Generic[Message]):
    """Buffers the messages of an iterator. gRPC's thread may still read a broken stream while the next one is
    read."""

    def __init__(self, source: Iterator[Message]) -> None:
        self._source = source
        self._reading = threading.Lock()
        self._window: _Window[Message] = _Window()

    def stream(self) -> Iterator[Message]:
        """Yields the unacknowledged messages, then new ones."""
        index = self._window.first
        while self._reaches(index):
            message = self._window.at(index)
            if message is None:
                return
            yield message
            index += 1

    def acknowledge(self) -> None:
        """Drops the first unacknowledged message."""
        self._window.acknowledge()

    def close(self) -> None:
        """Stops reading the source."""
        self._window.is_ended = True

    def _reaches(self, index: int) -> bool:
        while not self._window.has(index):
            with self._reading:
                if self._window.has(index):
                    return True
                if self._window.is_ended:
                    return False
                try:
                    self._window.add(next(self._source))
                except StopIteration:
                    self._window.is_ended = True
        return True


class AsyncResendBuffer(Generic[Message]):
    """Buffers the messages of an asynchronous iterator. A separate task reads the iterator, because gRPC cancels
    the reader of a broken stream and the iterator must not be cancelled with it."""

    def __init__(self, source: AsyncIterator[Message]) -> None:
        self._source = source
        self._reading: asyncio.Task[None] | None = None
        self._window: _Window[Message] = _Window()

    async def stream(self) -> AsyncIterator[Message]:
        """See `ResendBuffer.stream`."""
        index = self._window.first
        while await self._reaches(index):
            message = self._window.at(index)
            if message is None:
                return
            yield message
            index += 1

    def acknowledge(self) -> None:
        """See `ResendBuffer.acknowledge`."""
        self._window.acknowledge()

    async def close(self) -> None:
        """Stops reading the source."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _reaches(self, index: int) -> bool:
        while not self._window.has(index):
            if self._window.is_ended:
                return False
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._read())
            await asyncio.shield(self._reading)
        return True

    async def _read(self) -> None:
        try:
            self._window.add(await anext(self._source))
        except StopAsyncIteration:
            self._window.is_ended = True
