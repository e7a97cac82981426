"""Owns the gRPC interceptor of every server: it observes each call, rejects unauthorized, malformed, expired and
excess requests, and turns exceptions into a status."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from lookalike.model.errors import (
    Cancelled,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    LookalikeError,
    Overloaded,
    SlotMoved,
)
from lookalike.server.admission import Admission, ResponseBudget
from lookalike.server.health import HealthService
from lookalike.server.observe import logs
from lookalike.server.observe.calls import observe_call
from lookalike.server.request_guard import Context, RequestGuard, decode_or_mark
from lookalike.server.security.authorizer import Authorizer
from lookalike.transport import requests
from lookalike.transport.rpc import MAX_MESSAGE_BYTES, error_of, trailing_metadata

log = logging.getLogger("lookalike.serving")
_MAX_TEXT_BYTES = 1_500
_EXHAUSTED = {
    errno.EMFILE: "the server has too many open files: raise their limit (ulimit -n)",
    errno.ENFILE: "the server's machine has too many open files: raise their limit (sysctl fs.file-max)",
    errno.ENOSPC: "the server's disk is full: free space",
}


class Interceptor(grpc.aio.ServerInterceptor):
    """Guards the handlers of unary calls and streams. An unauthenticated caller is refused before any of its
    messages is read."""

    def __init__(self, admission: Admission, authorizer: Authorizer | None) -> None:
        self._admission = admission
        self._authorizer = authorizer
        self._health_service = HealthService()
        self._budget = ResponseBudget(admission.limit)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return None
        if not method.startswith("/lookalike."):
            return self._health_service.bounded(handler)
        decode = decode_or_mark(handler.request_deserializer)
        guard = RequestGuard(handler_call_details, self._admission, self._authorizer)
        try:
            guard.authenticate()
        except Exception as error:
            return _refuse(guard, error)
        if handler.unary_unary:
            unary = _guard_unary(handler.unary_unary, guard, handler.response_serializer, self._budget)
            return grpc.unary_unary_rpc_method_handler(unary, decode)
        if handler.unary_stream:
            answers = _guard_server_stream(handler.unary_stream, guard)
            return grpc.unary_stream_rpc_method_handler(answers, decode, handler.response_serializer)
        stream = _guard_bidi_stream(handler.stream_stream, guard)
        return grpc.stream_stream_rpc_method_handler(stream, decode, handler.response_serializer)


def _refuse(guard: RequestGuard, error: Exception) -> grpc.RpcMethodHandler[Any, Any]:
    async def refused(requests: AsyncIterator[Any], context: Context) -> None:
        with observe_call(guard.method, context, is_stream=False):
            await _abort(context, error)

    # Every refused method is registered with a stream of requests: for a single request, gRPC would read the
    # message before the handler runs.
    return grpc.stream_unary_rpc_method_handler(refused)


def _guard_unary(
    handle: Callable[[Any, Any], Awaitable[Any]],
    guard: RequestGuard,
    encode: Callable[[Any], bytes],
    budget: ResponseBudget,
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def guarded(request: Any, context: Context) -> Any:
        with observe_call(guard.method, context, is_stream=False):
            try:
                with guard.admit(request, context):
                    answer = encode(await handle(request, context))
                if len(answer) > MAX_MESSAGE_BYTES:
                    raise InvalidRequest(
                        f"response: has {len(answer) / 2**20:.0f} MiB, over the limit of"
                        f" {MAX_MESSAGE_BYTES // 2**20} MiB; ask for fewer items, or for less of each"
                    )
                if release := budget.hold(len(answer)):
                    # The call is done when its caller has read the answer or left.
                    context.add_done_callback(lambda call: release())  # type: ignore[arg-type]
                return answer
            except Exception as error:
                await _abort(context, error)

    return guarded


def _guard_server_stream(
    handle: Callable[[Any, Any], AsyncIterator[Any]], guard: RequestGuard
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        with observe_call(guard.method, context, is_stream=True):
            try:
                with guard.admit(request, context):
                    async for response in handle(request, context):
                        yield response
            except Exception as error:
                await _abort(context, error)

    return guarded


def _guard_bidi_stream(
    handle: Callable[[Any, Any], AsyncIterator[Any]], guard: RequestGuard
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def guarded(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async def admitted() -> AsyncIterator[Any]:
            async for request in requests:
                await guard.admit_from_stream(request)
                yield request

        with observe_call(guard.method, context, is_stream=True):
            try:
                async for response in handle(admitted(), context):
                    yield response
            except Exception as error:
                await _abort(context, error)

    return guarded


async def _abort(context: Context, error: Exception) -> None:
    request = requests.current()
    assert request is not None, "a call is observed before it is answered"
    request_id = request.id
    if context.done():
        log.info("the client left: %s", type(error).__name__)
        return
    known = _as_lookalike_error(error)
    if known is None:
        log.error("%s failed", request.rpc, exc_info=error)
        known = Internal(f"internal error; quote request id {request_id}")
    else:
        text = _shortened(logs.without_quotes(known.message))
        # While slots move, each search may be refused once: the coordinator repeats it at the slot's new place.
        level = logging.DEBUG if isinstance(known, SlotMoved) else logging.INFO
        log.log(level, "%s: %s: %s", request.rpc, type(known).__name__, text)
    await context.abort(
        grpc.StatusCode[known.status], _shortened(known.message), trailing_metadata(known, request_id)
    )


def _shortened(text: str) -> str:
    """Cuts an error text short, because it travels in headers, which are limited to a few kilobytes."""
    data = text.encode(errors="replace")
    return text if len(data) <= _MAX_TEXT_BYTES else data[:_MAX_TEXT_BYTES].decode(errors="ignore") + "…"


def _as_lookalike_error(error: Exception) -> LookalikeError | None:
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, grpc.RpcError):
        inner = error_of(error)
        return None if isinstance(inner, Internal) else inner
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the deadline passed before the answer was ready; allow more time")
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        return Overloaded(f"{_EXHAUSTED[error.errno]}, then retry", retry_after_ms=5_000)
    if isinstance(error, grpc.aio.UsageError):
        return Cancelled("the call ended before its answer")
    return None
