"""Owns the flow of an ingest stream: messages are read while earlier ones are being stored, and answered in order.

A sender may wait for each answer before it sends the next message. A sender that is too fast is slowed down:
reading stops while `MESSAGES_IN_FLIGHT` messages are being stored, or while the process has too many bytes in
flight to accept the next message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from lookalike.model.errors import PartitionUnavailable
from lookalike.server.admission import Admission
from lookalike.v1 import search_pb2 as pb

MESSAGES_IN_FLIGHT = 4


class IngestStream:
    """Answers one ingest stream.

    Args:
        admission: Bounds the bytes in flight, over all requests.
        draining: Set when the process stops: then no more messages are read.
        check: Raises InvalidRequest if a message is invalid, which ends the stream.
        store: Stores a message. Called in the order of arrival; the coroutines that it returns run concurrently.
    """

    def __init__(
        self,
        admission: Admission,
        draining: asyncio.Event,
        check: Callable[[pb.IngestRequest], None],
        store: Callable[[pb.IngestRequest], Coroutine[Any, Any, pb.IngestResponse]],
    ) -> None:
        self._admission = admission
        self._draining = draining
        self._check = check
        self._store = store
        # The tasks that store the messages, in the order of arrival. None marks the end.
        self._in_order: asyncio.Queue[asyncio.Task[pb.IngestResponse] | None] = asyncio.Queue(MESSAGES_IN_FLIGHT)
        self._tasks: set[asyncio.Task[pb.IngestResponse]] = set()

    async def answers(self, requests: AsyncIterator[pb.IngestRequest]) -> AsyncIterator[pb.IngestResponse]:
        """Yields the answer to each message, in order.

        Raises:
            InvalidRequest: If a message is invalid, after the earlier ones are answered.
            PartitionUnavailable: If the process stops, after the messages that were read are answered.
        """
        reader = asyncio.create_task(self._read_to_end(requests))
        try:
            while (task := await self._in_order.get()) is not None:
                yield await task
            await reader
        finally:
            unfinished = [reader, *self._tasks]
            for pending in unfinished:
                pending.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)

    async def _read_to_end(self, requests: AsyncIterator[pb.IngestRequest]) -> None:
        try:
            await self._read_until_draining(requests)
        except Exception:
            await self._in_order.put(None)
            raise
        await self._in_order.put(None)

    async def _read_until_draining(self, requests: AsyncIterator[pb.IngestRequest]) -> None:
        reading = asyncio.create_task(self._read(requests))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise PartitionUnavailable(
                    "this coordinator is stopping; send the unanswered messages again, which is harmless"
                )
            await reading
        finally:
            for task in (reading, draining):
                task.cancel()
            await asyncio.gather(reading, draining, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.IngestRequest]) -> None:
        async for request in requests:
            self._check(request)
            size = await self._admission.take(request.ByteSize())
            task = asyncio.create_task(self._store(request))
            self._tasks.add(task)

            def done(task: asyncio.Task[pb.IngestResponse], size: int = size) -> None:
                self._admission.give_back(size)
                self._tasks.discard(task)

            task.add_done_callback(done)
            await self._in_order.put(task)
