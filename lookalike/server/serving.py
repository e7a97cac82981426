"""Owns the life of a gRPC server process: bind, health, reflection, errors at the boundary, signals, drain.

The three services hand in their servicer and leave the rest to this file."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lookalike.model.errors import (
    Cancelled,
    CannotStart,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    LookalikeError,
)
from lookalike.server.admission import Admission, ResponseBudget
from lookalike.server.config import CONFIG_POLL_SECONDS, ClusterConfig, content_of, load_config
from lookalike.server.health import Health, HealthService
from lookalike.server.observe import logs, metrics
from lookalike.server.observe.calls import seen
from lookalike.server.security.authorizer import Gate, refusal
from lookalike.server.security.keys import Key
from lookalike.transport import requests
from lookalike.transport.rpc import SERVER_OPTIONS, error_of, trailing_metadata
from lookalike.transport.tls import ServerTls

log = logging.getLogger("lookalike.serving")
MAX_CONCURRENT_RPCS = 8_192
DRAIN_SECONDS = 10.0
_MAX_TEXT_BYTES = 1_500
EXIT_CANNOT_START = 2
# The health of this name says that the process runs, serving or not: who restarts what is dead asks for it.
LIVENESS = "liveness"


class Server:
    """A grpc.aio server with health and reflection. Reports NOT_SERVING until `set_ready`."""

    def __init__(self, service_names: list[str], admission: Admission, gate: Gate | None = None) -> None:
        """gate: stands before every method of the services; none lets everyone in."""
        self.grpc = grpc.aio.server(
            interceptors=[Boundary(admission, gate)],
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
        )
        self._services = service_names
        self._admission = admission
        self._is_ready = False
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        reflection.enable_server_reflection(
            [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME], self.grpc
        )

    async def start(self, listen: str, tls: ServerTls | None = None) -> int:
        """Bind `listen` ("host:port", port 0 for any) and start. Returns the port; raises CannotStart."""
        try:
            if tls is None:
                port = self.grpc.add_insecure_port(listen)
            else:
                port = self.grpc.add_secure_port(listen, tls.grpc_credentials())
        except RuntimeError:
            raise CannotStart(
                f"listen: {listen} cannot be bound: the port is in use or the address is not this machine's"
            ) from None
        self._health.set(["", *self._services], is_serving=False)
        self._health.set([LIVENESS], is_serving=True)
        await self.grpc.start()
        return port

    async def set_ready(self, is_ready: bool = True) -> None:
        self._is_ready = is_ready
        self._health.set(["", *self._services], is_ready)

    async def stop(self) -> None:
        """Say NOT_SERVING, let calls in flight finish, and stop."""
        self._is_ready = False
        self._health.end()
        await self.grpc.stop(DRAIN_SECONDS)

    def levels(self) -> Iterator[metrics.Sample]:
        """What its metrics show of it."""
        yield metrics.READY, (), self._is_ready
        yield metrics.REQUEST_BYTES, (), self._admission.taken
        yield metrics.REQUEST_BYTES_LIMIT, (), self._admission.limit


class Boundary(grpc.aio.ServerInterceptor):
    """What lies between gRPC and the handlers: turns what one raises into a status, once, for unary calls and
    streams alike; keeps from them who may not, what is no message, what comes too late, and what is too much. Who
    has no business here is refused before any message of theirs is read."""

    def __init__(self, admission: Admission, gate: Gate | None) -> None:
        self._admission = admission
        self._gate = gate
        self._lobby = HealthService()
        self._unread = ResponseBudget(admission.limit)

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
            return self._lobby.bounded(handler)
        decode = _decode_or_explain(handler.request_deserializer)
        door = _Door(handler_call_details, self._admission, self._gate)
        try:
            door.enter()
        except Exception as error:
            return _refuse(door, error)
        if handler.unary_unary:
            unary = _guard_unary(handler.unary_unary, door, handler.response_serializer, self._unread)
            return grpc.unary_unary_rpc_method_handler(unary, decode)
        if handler.unary_stream:
            answers = _guard_answers(handler.unary_stream, door)
            return grpc.unary_stream_rpc_method_handler(answers, decode, handler.response_serializer)
        stream = _guard_stream(handler.stream_stream, door)
        return grpc.stream_stream_rpc_method_handler(stream, decode, handler.response_serializer)


Context = grpc.aio.ServicerContext[Any, Any]


class _Undecodable:
    """Stands in for a request that is no valid message, so that the handler's guard can refuse it."""


def _decode_or_explain(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_request(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:
            return _Undecodable()

    return decode_request


class _Door:
    """One call's: what its requests have to pass before the method works on them."""

    def __init__(self, call: grpc.HandlerCallDetails, admission: Admission, gate: Gate | None) -> None:
        """Of a method's whole name, "/PACKAGE.SERVICE/METHOD", the gate gets the last part."""
        self.method: str = call.method
        self._name = self.method.rpartition("/")[2]
        self._metadata = call.invocation_metadata
        self._admission = admission
        self._gate = gate
        self._key: Key | None = None

    @contextlib.contextmanager
    def taken_on(self, request: Any, context: Context) -> Iterator[None]:
        """The block works on a request that may be made, is a message, is in time, and has room."""
        self._check_message(request)
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded("the deadline had passed before the request's turn came; allow more time")
        if wait := self._seconds_to_wait(request):
            raise refusal(wait)
        with self._admission.admit(request.ByteSize()):
            yield

    def enter(self) -> None:
        """Refuse a caller who has no business here."""
        if self._gate is not None:
            self._key = self._gate.enter(self._name, _bearing(self._metadata))

    async def admit_in_turn(self, request: Any) -> None:
        """Check one request of a stream, and the key that may have been taken back since; one that comes too fast
        waits, and its sender with it."""
        self.enter()
        self._check_message(request)
        while wait := self._seconds_to_wait(request):  # noqa: ASYNC110 -- room comes with time alone
            await asyncio.sleep(wait)

    def _check_message(self, request: Any) -> None:
        if isinstance(request, _Undecodable):
            raise InvalidRequest(
                "request: is not a valid message of this method (a string that is not UTF-8, or a cut message)"
            )

    def _seconds_to_wait(self, request: Any) -> float:
        return 0.0 if self._gate is None else self._gate.pass_request(self._name, self._key, request)


def _bearing(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _refuse(door: _Door, error: Exception) -> grpc.RpcMethodHandler[Any, Any]:
    async def refused(requests: AsyncIterator[Any], context: Context) -> None:
        with seen(door.method, context, is_stream=False):
            await _abort(context, error)

    # As if a stream were asked for, whatever is: gRPC reads the message of any other call by itself.
    return grpc.stream_unary_rpc_method_handler(refused)


def _guard_unary(
    handle: Callable[[Any, Any], Awaitable[Any]],
    door: _Door,
    encode: Callable[[Any], bytes],
    unread: ResponseBudget,
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def guarded(request: Any, context: Context) -> Any:
        with seen(door.method, context, is_stream=False):
            try:
                with door.taken_on(request, context):
                    answer = encode(await handle(request, context))
                if let_go := unread.hold(len(answer)):
                    # The call is done when its caller has taken the answer, or has gone.
                    context.add_done_callback(lambda call: let_go())  # type: ignore[arg-type]
                return answer
            except Exception as error:
                await _abort(context, error)

    return guarded


def _guard_answers(
    handle: Callable[[Any, Any], AsyncIterator[Any]], door: _Door
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        with seen(door.method, context, is_stream=True):
            try:
                with door.taken_on(request, context):
                    async for response in handle(request, context):
                        yield response
            except Exception as error:
                await _abort(context, error)

    return guarded


def _guard_stream(
    handle: Callable[[Any, Any], AsyncIterator[Any]], door: _Door
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def guarded(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        async def admitted() -> AsyncIterator[Any]:
            async for request in requests:
                await door.admit_in_turn(request)
                yield request

        with seen(door.method, context, is_stream=True):
            try:
                async for response in handle(admitted(), context):
                    yield response
            except Exception as error:
                await _abort(context, error)

    return guarded


async def _abort(context: Context, error: Exception) -> None:
    request = requests.current()
    assert request is not None, "a call is seen before it is answered"
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
        log.info("%s: %s: %s", request.rpc, type(known).__name__, text)
    await context.abort(
        grpc.StatusCode[known.status], _shortened(known.message), trailing_metadata(known, request_id)
    )


def _shortened(text: str) -> str:
    """Error texts travel in headers, which have a hard limit of a few kilobytes."""
    data = text.encode(errors="replace")
    return text if len(data) <= _MAX_TEXT_BYTES else data[:_MAX_TEXT_BYTES].decode(errors="ignore") + "…"


def _as_lookalike_error(error: Exception) -> LookalikeError | None:
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, grpc.RpcError):
        inner = error_of(error)
        return None if isinstance(inner, Internal) else inner
    if isinstance(error, TimeoutError):
        return DeadlineExceeded("the deadline passed before the answer was there; allow more time")
    if isinstance(error, grpc.aio.UsageError):
        return Cancelled("the call ended before its answer")
    return None


Reload = Callable[[ClusterConfig], Awaitable[None]]


async def follow_config(path: Path, config: ClusterConfig, reload: Reload) -> None:
    """Call `reload` whenever SIGHUP comes or the file says something else than `config`, which the process started
    with, or than what was taken over last. A file that cannot be read changes nothing: what is wrong with it is
    logged. Runs until cancelled."""
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
    # It may have changed while the process started.
    seen = None
    while True:
        content = content_of(path)
        is_asked = asked.is_set()
        asked.clear()
        # Empty is a file that somebody has begun to write.
        if content != b"" and (content != seen or is_asked):
            seen = content
            try:
                found = load_config(path)
                if is_asked or found != config:
                    await reload(found)
                    config = found
            except CannotStart as error:
                log.error("the config is not taken over: %s", error.message)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asked.wait(), CONFIG_POLL_SECONDS)


async def until_stopped(watch_stdin: bool) -> None:
    """Wait for SIGTERM or SIGINT, or with `watch_stdin` for the end of standard input: a supervisor holds
    the other end, so a process does not outlive it even when it is killed."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if watch_stdin:
        loop.add_reader(sys.stdin, stopped.set)
    await stopped.wait()


def process_arguments(program: str, description: str | None) -> argparse.ArgumentParser:
    """The arguments that every server process takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--config", type=Path, required=True, help="the cluster's config file")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when standard input ends")
    return parser


def run_process(main: Coroutine[Any, Any, None]) -> None:
    """Run a server process to its end. Exits with one line and code 2 when it cannot start."""
    logs.start("text", "info", {})
    try:
        uvloop.run(main)
    except CannotStart as error:
        print(f"error: {error.message}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CANNOT_START)
