"""Owns what both ends of a gRPC connection share: limits, channel options, and how a `LookalikeError`
crosses the wire (status, text, and trailing metadata that names the class)."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from lookalike.model import errors
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, LookalikeError
from lookalike.transport import requests

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_IMAGE_BYTES = 32 * 1024 * 1024
ERROR_KEY = "lookalike-error"
REQUEST_ID_KEY = requests.REQUEST_ID_KEY
AUTHORIZATION_KEY = "authorization"
RETRY_AFTER_KEY = "retry-after-ms"

# A server reads messages up to this size, to refuse those over the limit with its own error. gRPC itself refuses
# larger ones, with RESOURCE_EXHAUSTED and without a request id, and it does not say that a retry is of no use.
_MAX_READ_BYTES = 4 * MAX_MESSAGE_BYTES
# Binding a port that another process holds must fail, not share its traffic: see Server for the exception.
SERVER_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_READ_BYTES),
    ("grpc.so_reuseport", 0),
    # A client reconnects at this age, so that new coordinators get their share of calls. Calls in flight finish.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
# gRPC backs off up to two minutes; a restarted server must be found again within a second.
CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
    # A host that disappears without closing its connections is detected within half a minute, not when TCP gives
    # up.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


async def call_by(method: Any, request: Any, deadline: float) -> Any:
    """Calls a method of an asyncio stub.

    Args:
        method: The stub's method.
        request: Its request message.
        deadline: A time of the running loop's clock.

    Raises:
        LookalikeError: The error that the server raised, or the nearest to gRPC's status.
    """
    timeout = deadline - asyncio.get_running_loop().time()
    if timeout <= 0:
        raise DeadlineExceeded("the deadline passed before the answer was ready; allow more time")
    try:
        return await method(request, timeout=timeout, metadata=requests.metadata())
    except grpc.RpcError as call:
        raise error_of(call) from None


def trailing_metadata(error: LookalikeError, request_id: str) -> tuple[tuple[str, str], ...]:
    """The trailing metadata that carries an error next to its status and text."""
    metadata = [(ERROR_KEY, errors.name_of(error)), (REQUEST_ID_KEY, request_id)]
    if error.retry_after_ms is not None:
        metadata.append((RETRY_AFTER_KEY, str(error.retry_after_ms)))
    return tuple(metadata)


def too_large(detail: str) -> str:
    """The text of the error for a message over the limit."""
    return f"message: over the limit of {MAX_MESSAGE_BYTES // 2**20} MiB ({detail}); send fewer items per request"


def error_of(call: grpc.RpcError) -> LookalikeError:
    """The error of a failed call: of the class that the server raised, or the nearest to gRPC's own status."""
    status: grpc.StatusCode = call.code()
    text: str = call.details() or status.name
    metadata: dict[str, str] = dict(call.trailing_metadata() or ())  # type: ignore[arg-type]
    if name := metadata.get(ERROR_KEY):
        error = errors.by_name(name, text)
    elif status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        error = InvalidRequest(too_large(text))
    else:
        error = errors.by_status(status.name, text)
    error.request_id = metadata.get(REQUEST_ID_KEY)
    if retry_after := metadata.get(RETRY_AFTER_KEY):
        error.retry_after_ms = int(retry_after)
    return error
