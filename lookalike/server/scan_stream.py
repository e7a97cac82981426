"""Owns the client side of the stream of scans to one shard. Responses carry the number of their request, so they
may arrive in any order. If the stream breaks, its pending requests fail, and the next request opens a new one."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Coroutine
from typing import Any

import grpc

from lookalike.model import errors
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, LookalikeError, PartitionUnavailable
from lookalike.server.peer_channels import Connection
from lookalike.transport import requests, tracing
from lookalike.transport.rpc import MAX_MESSAGE_BYTES, error_of, too_large
from lookalike.v1 import shard_pb2 as pb
from lookalike.v1.shard_pb2_grpc import ShardServiceStub

# What a call adds to its request: a number and ids.
_CALL_BYTES = 4_096
_LATE = "the deadline passed before the answer was ready; allow more time"


class NotSupported(LookalikeError):
    """The shard is older than the stream."""


class ScanStreamClient:
    """The stream of scans to one shard; opened by the first request."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stream: _Stream | None = None

    def scan(self, request: pb.ScanRequest, deadline: float) -> Coroutine[Any, Any, pb.ScanResponse]:
        """Returns the shard's response, when awaited.

        Args:
            request: The scan.
            deadline: A time of the running loop's clock.

        Raises:
            NotSupported: If the shard has no stream.
            LookalikeError: The error that the shard returned, or that broke the stream.
        """
        stub = self._connection.stub(ShardServiceStub)
        stream = self._stream
        if stream is None or stream.is_broken or stream.stub is not stub:
            if stream is not None:
                stream.finish()
            stream = self._stream = _Stream(stub)
        return stream.scan(request, deadline)

    def finish(self) -> None:
        """Closes the stream once its requests are answered."""
        if self._stream is not None:
            self._stream.finish()

    def close(self) -> None:
        """Closes the stream."""
        if self._stream is not None:
            self._stream.close()


class _Stream:
    def __init__(self, stub: Any) -> None:
        self.stub = stub
        self.is_broken = False
        self._call = stub.ScanStream()
        self._numbers = 0
        self._waiting: dict[int, asyncio.Future[pb.ScanResponse]] = {}
        # Messages that wait to be written: gRPC permits one write at a time.
        self._unsent: collections.deque[pb.ScanCall] = collections.deque()
        self._is_finishing = False
        loop = asyncio.get_running_loop()
        # Done when there is something to write, or the stream has ended.
        self._wakeup: asyncio.Future[None] = loop.create_future()
        self._reader = loop.create_task(self._read())
        # A task of its own, because gRPC ends a stream if a write is cancelled.
        self._writer = loop.create_task(self._write())

    async def scan(self, request: pb.ScanRequest, deadline: float) -> pb.ScanResponse:
        loop = asyncio.get_running_loop()
        if loop.time() >= deadline:
            raise DeadlineExceeded(_LATE)
        if (size := request.ByteSize()) > MAX_MESSAGE_BYTES - _CALL_BYTES:
            raise InvalidRequest(too_large(f"it has {size:,} bytes"))
        self._numbers += 1
        number = self._numbers
        current = requests.current()
        call = pb.ScanCall(
            number=number,
            request=request,
            request_id="" if current is None else current.id,
            traceparent=dict(tracing.headers()).get(tracing.TRACEPARENT, ""),
        )
        response: asyncio.Future[pb.ScanResponse] = loop.create_future()
        self._waiting[number] = response
        timer = loop.call_at(deadline, _expire, response)
        try:
            self._send(call)
            return await response
        finally:
            timer.cancel()
            if self._waiting.pop(number, None) is not None and not self.is_broken:
                self._send(pb.ScanCall(number=number, cancelled=True))
            if self._is_finishing:
                self._close_if_done()

    def finish(self) -> None:
        self._is_finishing = True
        self._close_if_done()

    def close(self) -> None:
        self.is_broken = True
        self._call.cancel()
        self._wake_writer()

    def _send(self, call: pb.ScanCall) -> None:
        self._unsent.append(call)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if not self._wakeup.done():
            self._wakeup.set_result(None)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while not self.is_broken:
                while self._unsent:
                    await self._call.write(self._unsent.popleft())
                self._wakeup = loop.create_future()
                await self._wakeup
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            # The stream has ended: the reader fails all requests on it, with the reason.
            self.is_broken = True
        finally:
            # After any other error. This has no effect on a stream that has ended.
            self.close()

    async def _read(self) -> None:
        error: LookalikeError = PartitionUnavailable("the shard closed the stream")
        try:
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                if response := self._waiting.pop(reply.number, None):
                    _settle(response, reply)
        except grpc.RpcError as failure:
            error = _reason(failure)
        finally:
            self.is_broken = True
            self._wake_writer()
            for response in self._waiting.values():
                _fail(response, error)
            self._waiting.clear()

    def _close_if_done(self) -> None:
        if not self._waiting:
            self.close()


def _reason(failure: grpc.RpcError) -> LookalikeError:
    """The error of the requests on a stream that broke: not that of one of them, which the shard answers."""
    code = failure.code()
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return NotSupported("the shard has no ScanStream")
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        # gRPC's own: the shard ended in the middle of a message.
        return PartitionUnavailable("the shard broke the stream off")
    return error_of(failure)


def _settle(response: asyncio.Future[pb.ScanResponse], reply: pb.ScanReply) -> None:
    if not reply.error:
        if not response.done():
            response.set_result(reply.response)
        return
    error = errors.by_name(reply.error, reply.message)
    if reply.HasField("retry_after_ms"):
        error.retry_after_ms = reply.retry_after_ms
    _fail(response, error)


def _expire(response: asyncio.Future[pb.ScanResponse]) -> None:
    _fail(response, DeadlineExceeded(_LATE))


def _fail(response: asyncio.Future[pb.ScanResponse], error: LookalikeError) -> None:
    if not response.done():
        response.set_exception(error)
