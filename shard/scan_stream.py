"""Owns the server side of streams of scans. It admits each request as a call of its own, runs it in a task of its
own, and sends the response as soon as it is ready."""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from lookalike.model import errors
from lookalike.model.errors import Internal, InvalidRequest, LookalikeError
from lookalike.server.admission import Admission
from lookalike.server.observe.calls import observe_request
from lookalike.transport.rpc import MAX_MESSAGE_BYTES, too_large
from lookalike.v1 import shard_pb2 as pb

log = logging.getLogger("shard.scan_stream")
_METHOD = "/lookalike.v1.ShardService/Scan"
# What a reply adds to its response: a number.
_REPLY_BYTES = 1_024

Context = grpc.aio.ServicerContext[Any, Any]
Scan = Callable[[pb.ScanRequest], Awaitable[pb.ScanResponse]]


class ScanStreamServer:
    """The streams that are open."""

    def __init__(self, scan: Scan, admission: Admission) -> None:
        self._scan = scan
        self._admission = admission
        self._open: set[_Stream] = set()
        self._is_draining = False

    async def serve(self, calls: AsyncIterator[pb.ScanCall], context: Context) -> None:
        """Answers the requests of one stream until it ends."""
        stream = _Stream(self._scan, self._admission, context)
        self._open.add(stream)
        if self._is_draining:
            stream.drain()
        try:
            await stream.serve(calls)
        finally:
            self._open.discard(stream)

    def drain(self) -> None:
        """Ends each stream once the requests read from it are answered."""
        self._is_draining = True
        for stream in self._open:
            stream.drain()


class _Stream:
    def __init__(self, scan: Scan, admission: Admission, context: Context) -> None:
        self._scan = scan
        self._admission = admission
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        # By the request's number: the tasks whose replies are not ready.
        self._scanning: dict[int, asyncio.Task[None]] = {}
        # Replies that wait until another one is written: gRPC permits one write at a time.
        self._replies: collections.deque[pb.ScanReply] = collections.deque()
        self._is_writing = False
        self._draining = asyncio.Event()

    async def serve(self, calls: AsyncIterator[pb.ScanCall]) -> None:
        reader = asyncio.ensure_future(self._read(calls))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((reader, draining), return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            elif self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in (reader, draining, *self._tasks):
                task.cancel()

    def drain(self) -> None:
        self._draining.set()

    async def _read(self, calls: AsyncIterator[pb.ScanCall]) -> None:
        async for call in calls:
            if call.cancelled:
                # gRPC would end the stream if it was cancelled while it writes a reply.
                # A task that has not begun to run would not remove itself.
                if scanning := self._scanning.pop(call.number, None):
                    scanning.cancel()
                continue
            task = asyncio.create_task(self._answer(call))
            self._scanning[call.number] = task
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: pb.ScanCall) -> None:
        try:
            with observe_request(_METHOD, call.request_id, call.traceparent):
                with self._admission.admit(call.request.ByteSize()):
                    response = await self._scan(call.request)
                if (size := response.ByteSize()) > MAX_MESSAGE_BYTES - _REPLY_BYTES:
                    raise InvalidRequest(too_large(f"the answer has {size:,} bytes"))
            reply = pb.ScanReply(number=call.number, response=response)
        except LookalikeError as error:
            reply = _failed(call.number, error)
        except Exception:
            log.exception("a scan failed")
            reply = _failed(call.number, Internal("internal error; see the shard's log"))
        finally:
            self._scanning.pop(call.number, None)
        await self._write(reply)

    async def _write(self, reply: pb.ScanReply) -> None:
        self._replies.append(reply)
        if self._is_writing:
            return
        self._is_writing = True
        try:
            while self._replies:
                await self._context.write(self._replies.popleft())
        finally:
            self._is_writing = False


def _failed(number: int, error: LookalikeError) -> pb.ScanReply:
    return pb.ScanReply(
        number=number, error=errors.name_of(error), message=error.message, retry_after_ms=error.retry_after_ms
    )
