"""Owns the methods that need no key: health and reflection. Their callers can neither use up the server's capacity
for calls nor delay its shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)

MAX_STREAMS = 1_024
MESSAGE_SECONDS = 10.0

Context = grpc.aio.ServicerContext[Any, Any]


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # its stubs are untyped
    """The states of a server's services by name. Not gRPC's own servicer: it writes to watchers while it holds
    the lock that `set` needs too, so a watcher that does not read would keep the server from stopping."""

    def __init__(self) -> None:
        self._states: dict[str, HealthCheckResponse.ServingStatus.ValueType] = {}
        self._changed = asyncio.Event()
        self._is_ended = False

    def set(self, names: Iterable[str], is_serving: bool) -> None:
        """Sets the state of services and notifies watchers. No effect after `end`."""
        if not self._is_ended:
            state = HealthCheckResponse.SERVING if is_serving else HealthCheckResponse.NOT_SERVING
            self._states |= dict.fromkeys(names, state)
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """Sets every service to NOT_SERVING for good, and ends the watchers' streams once they have that state."""
        self.set(list(self._states), is_serving=False)
        self._is_ended = True

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        if request.service not in self._states:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, "service: is unknown here; omit it to check the whole server"
            )
        return HealthCheckResponse(status=self._states[request.service])

    async def List(self, request: HealthListRequest, context: Context) -> HealthListResponse:
        states = {name: HealthCheckResponse(status=state) for name, state in self._states.items()}
        return HealthListResponse(statuses=states)

    async def Watch(self, request: HealthCheckRequest, context: Context) -> AsyncIterator[HealthCheckResponse]:
        reported = None
        while True:
            changed = self._changed
            status = self._states.get(request.service, HealthCheckResponse.SERVICE_UNKNOWN)
            if status != reported:
                yield HealthCheckResponse(status=status)
                reported = status
            elif self._is_ended:
                return
            else:
                await changed.wait()


class HealthService:
    """Bounds the calls of the methods that need no key."""

    def __init__(self) -> None:
        self._streams = 0

    def bounded(self, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """Limits a handler to MAX_STREAMS open streams (fewer than the calls that a server accepts), and to
        requests that arrive within MESSAGE_SECONDS. The returned handler always takes a request stream: for a
        unary request, gRPC would wait for the message without a time limit."""
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(
                _in_time(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        answers = handler.stream_stream or _after_its_message(handler.unary_stream)
        return grpc.stream_stream_rpc_method_handler(
            self._counted(answers), handler.request_deserializer, handler.response_serializer
        )

    def _counted(self, answers: Any) -> Any:
        async def counted(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            if self._streams >= MAX_STREAMS:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{MAX_STREAMS:,} health watches and reflection calls are open; retry later",
                )
            self._streams += 1
            context.add_done_callback(self._end_stream)  # type: ignore[arg-type]  # the stubs ask for a class
            async for answer in answers(requests, context):
                yield answer

        return counted

    def _end_stream(self, context: Context) -> None:
        self._streams -= 1


def _in_time(handle: Any) -> Any:
    async def handled(requests: AsyncIterator[Any], context: Context) -> Any:
        return await handle(await _message(requests, context), context)

    return handled


def _after_its_message(answers: Any) -> Any:
    async def answered(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async for answer in answers(await _message(requests, context), context):
            yield answer

    return answered


async def _message(requests: AsyncIterator[Any], context: Context) -> Any:
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            return await anext(aiter(requests))
    except (TimeoutError, StopAsyncIteration):
        text = f"request: did not arrive within {MESSAGE_SECONDS:.0f} s; send it with the call"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
