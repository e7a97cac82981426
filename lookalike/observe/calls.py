"""Owns what is seen of a call that a server answers: its request id, its span, its time and status, and a line in
the log when it was slow or failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import grpc

from lookalike.observe import metrics, requests, tracing

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


@contextlib.contextmanager
def seen(method: str, context: Context, *, is_stream: bool) -> Iterator[None]:
    """The block answers a call. is_stream: it may take as long as it likes."""
    sent = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    rpc = method.rpartition("/")[2]
    # Neither is taken back at the end: gRPC has a task for each call, and theirs is all that the task does.
    request = requests.begin(rpc, sent.get(requests.REQUEST_ID_KEY))
    span = tracing.Served(method, sent.get(tracing.TRACEPARENT), method.startswith(_PUBLIC))
    in_flight = metrics.RPCS_IN_FLIGHT.labels(rpc)
    in_flight.inc()
    began = time.perf_counter()
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        seconds = time.perf_counter() - began
        in_flight.dec()
        code = _status(context, failure)
        metrics.RPC_SECONDS.labels(rpc, code.name).observe(seconds)
        span.ended(code.name, code.value[0], code in _FAULTS, request_id=request.id)
        is_slow = seconds >= SLOW_SECONDS and not is_stream
        if is_slow or log.isEnabledFor(logging.DEBUG):
            log.log(
                logging.INFO if is_slow else logging.DEBUG, "%s: %s in %.1f ms", rpc, code.name, seconds * 1000
            )


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
    """gRPC gives the status of a call as a number or as a StatusCode."""
    return int(code.value[0]) if isinstance(code, grpc.StatusCode) else int(code)
