"""Owns the observation of a call that a server answers: its request id, span, duration and status, and a log line
if the call was slow. The interceptor logs errors."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from types import TracebackType
from typing import Any

import grpc
from prometheus_client import Gauge, Histogram

from lookalike.model.errors import LookalikeError
from lookalike.server.observe import metrics
from lookalike.server.observe.later import later
from lookalike.transport import requests, tracing

log = logging.getLogger("lookalike.calls")
SLOW_SECONDS = 1.0
_PUBLIC = "/lookalike.v1.SearchService/"
_FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
)

Context = grpc.aio.ServicerContext[Any, Any]


class _Observed:  # a plain class, because contextlib's generators are slow and this runs on every call
    __slots__ = ("_began", "_in_flight", "_request", "_span")
    _is_stream = False

    def __init__(self, method: str, sent_id: str | None, traceparent: str | None) -> None:
        # The current request and span are not reset at the end, because gRPC runs each call in its own task.
        self._request = requests.begin(method.rpartition("/")[2], sent_id)
        self._span = tracing.served(method, traceparent, method.startswith(_PUBLIC))
        self._in_flight = _in_flight(self._request.rpc)
        self._began = time.perf_counter()

    def __enter__(self) -> None:
        later(self._in_flight.inc)

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds = time.perf_counter() - self._began
        rpc, code = self._request.rpc, self._status(failure)
        later(_ended, self._in_flight, rpc, code, seconds)
        if self._span is not None:
            self._span.ended(code.name, code.value[0], code in _FAULTS, request_id=self._request.id)
        is_slow = seconds >= SLOW_SECONDS and not self._is_stream
        if is_slow or log.isEnabledFor(logging.DEBUG):
            log.log(
                logging.INFO if is_slow else logging.DEBUG, "%s: %s in %.1f ms", rpc, code.name, seconds * 1000
            )

    def _status(self, failure: BaseException | None) -> grpc.StatusCode:
        raise NotImplementedError


class observe_call(_Observed):
    """Observes the call that the block answers. is_stream: whether the call is a stream, which is never logged as
    slow."""

    __slots__ = ("_context", "_is_stream")

    def __init__(self, method: str, context: Context, *, is_stream: bool) -> None:
        self._context = context
        self._is_stream = is_stream
        sent_id = traceparent = None
        for key, value in context.invocation_metadata() or ():
            if key == requests.REQUEST_ID_KEY:
                sent_id = str(value)
            elif key == tracing.TRACEPARENT:
                traceparent = str(value)
        super().__init__(method, sent_id, traceparent)

    def _status(self, failure: BaseException | None) -> grpc.StatusCode:
        return _status(self._context, failure)


class observe_request(_Observed):
    """Observes one request of a stream, which the block answers, as a call of its own."""

    __slots__ = ()

    def _status(self, failure: BaseException | None) -> grpc.StatusCode:
        if failure is None:
            return grpc.StatusCode.OK
        if isinstance(failure, LookalikeError):
            return grpc.StatusCode[failure.status]
        return (
            grpc.StatusCode.CANCELLED if isinstance(failure, asyncio.CancelledError) else grpc.StatusCode.INTERNAL
        )


def _ended(in_flight: Gauge, rpc: str, code: grpc.StatusCode, seconds: float) -> None:
    in_flight.dec()
    _seconds(rpc, code).observe(seconds)


# Cached, because looking up a metric's labels costs as much as updating the metric.
@functools.cache
def _in_flight(rpc: str) -> Gauge:
    return metrics.RPCS_IN_FLIGHT.labels(rpc)


@functools.cache
def _seconds(rpc: str, code: grpc.StatusCode) -> Histogram:
    return metrics.RPC_SECONDS.labels(rpc, code.name)


def _status(context: Context, failure: BaseException | None) -> grpc.StatusCode:
    if failure is None:
        return grpc.StatusCode.OK
    if isinstance(failure, asyncio.CancelledError | GeneratorExit):
        remaining = context.time_remaining()
        is_late = remaining is not None and remaining <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
    return _STATUSES.get(_number(context.code()), grpc.StatusCode.UNKNOWN)


_STATUSES = {status.value[0]: status for status in grpc.StatusCode}


def _number(code: Any) -> int:
    """The number of a status code, which gRPC gives as a number or as a StatusCode."""
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code)
