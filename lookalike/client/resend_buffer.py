"""Owns an ingest stream's messages until each is answered, so that another stream goes on where one broke: from
the first message without an answer. Sending one twice is harmless."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

Message = TypeVar("Message")


class _Window(Generic[Message]):
    """Messages by their place in the whole stream, from the first that is not answered on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: collections.deque[Message] = collections.deque()
        self.first = 0
        self.is_ended = False

    def add(self, message: Message) -> None:
        with self._lock:
            self._messages.append(message)

    def has(self, place: int) -> bool:
        with self._lock:
            return place < self.first + len(self._messages)

    def at(self, place: int) -> Message | None:
        """None for one that is answered already, as a stream that broke may still ask for."""
        with self._lock:
            return self._messages[place - self.first] if place >= self.first else None

    def answered(self) -> None:
        with self._lock:
            self._messages.popleft()
            self.first += 1


class ResendBuffer(Generic[Message]):
    """Messages of an iterator. A stream that broke may still be read by gRPC's thread while the next one is."""

    def __init__(self, source: Iterator[Message]) -> None:
        self._source = source
        self._reading = threading.Lock()
        self._window: _Window[Message] = _Window()

    def stream(self) -> Iterator[Message]:
        """All that is not answered, and then what comes."""
        place = self._window.first
        while self._reaches(place):
            message = self._window.at(place)
            if message is None:
                return
            yield message
            place += 1

    def answered(self) -> None:
        """The first message that was not."""
        self._window.answered()

    def close(self) -> None:
        """Reads no more of the source."""
        self._window.is_ended = True

    def _reaches(self, place: int) -> bool:
        while not self._window.has(place):
            with self._reading:
                if self._window.has(place):
                    return True
                if self._window.is_ended:
                    return False
                try:
                    self._window.add(next(self._source))
                except StopIteration:
                    self._window.is_ended = True
        return True


class AsyncResendBuffer(Generic[Message]):
    """Messages of an asynchronous iterator. gRPC cancels the reader of a stream that broke; the source must not
    notice, so a task of our own reads that."""

    def __init__(self, source: AsyncIterator[Message]) -> None:
        self._source = source
        self._reading: asyncio.Task[None] | None = None
        self._window: _Window[Message] = _Window()

    async def stream(self) -> AsyncIterator[Message]:
        """See `ResendBuffer.stream`."""
        place = self._window.first
        while await self._reaches(place):
            message = self._window.at(place)
            if message is None:
                return
            yield message
            place += 1

    def answered(self) -> None:
        """See `ResendBuffer.answered`."""
        self._window.answered()

    async def close(self) -> None:
        """Read no more of the source."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _reaches(self, place: int) -> bool:
        while not self._window.has(place):
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
