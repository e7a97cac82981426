"""Owns the calls from the web port to the coordinator's gRPC server: the channel, and the headers that are
forwarded as metadata."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lookalike.files.sockets import socket_folder
from lookalike.model.errors import DeadlineExceeded, InvalidRequest, Unauthenticated
from lookalike.transport import requests
from lookalike.transport.rpc import CHANNEL_OPTIONS, REQUEST_ID_KEY, error_of
from lookalike.v1 import search_pb2

SERVICE = search_pb2.DESCRIPTOR.services_by_name["SearchService"]
REQUEST_ID_HEADER = "X-Request-Id"
TIMEOUT_HEADER = "X-Timeout-Ms"
MAX_TIMEOUT_MS = 3_600_000
_PRINTABLE = re.compile(r"[ -~]*")
_FORWARDED = ("authorization", "traceparent", "tracestate")


@contextlib.contextmanager
def private_address() -> Iterator[str]:
    """The address of a unix socket in a new folder that only this user can access. Raises CannotStart."""
    with socket_folder("lookalike-web-") as folder:
        yield f"unix:{folder}/grpc"


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """What an HTTP request's headers say about its call. metadata: the headers to forward, with the request id.
    timeout_seconds: None for the server's default."""

    request_id: str
    metadata: tuple[tuple[str, str], ...]
    timeout_seconds: float | None


def request_id_of(headers: Mapping[str, str]) -> str:
    """The request id from the headers, or a new one. Servers log exactly this id."""
    return requests.id_or_new(headers.get(REQUEST_ID_HEADER, ""))


def caller_of(headers: Mapping[str, str], request_id: str) -> Caller:
    """The caller's metadata and timeout.

    Raises:
        Unauthenticated: If a forwarded header is not printable ASCII.
        InvalidRequest: If the timeout is not a valid number.
    """
    metadata = [(REQUEST_ID_KEY, request_id)]
    for name in _FORWARDED:
        value = headers.get(name)
        if value is not None and not _PRINTABLE.fullmatch(value):
            raise Unauthenticated(f"{name}: contains characters other than printable ASCII; send 'Bearer KEY'")
        if value is not None:
            metadata.append((name, value))
    return Caller(request_id, tuple(metadata), _timeout_seconds(headers.get(TIMEOUT_HEADER)))


def _timeout_seconds(text: str | None) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= MAX_TIMEOUT_MS:
        raise InvalidRequest(
            f"x-timeout-ms: invalid value {text[:40]!r}; use an integer from 1 to {MAX_TIMEOUT_MS:,}, or omit it"
        )
    return int(text) / 1_000


def request_class(rpc: str) -> type[Message]:
    """The request class of an RPC."""
    return GetMessageClass(SERVICE.methods_by_name[rpc].input_type)


class Gateway:
    """Calls RPCs of the SearchService by name."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._methods = {method.name: self._method(method) for method in SERVICE.methods}

    async def call(self, rpc: str, request: Message, caller: Caller) -> Any:
        """The RPC's response. Raises the error that the server raised."""
        try:
            return await self._methods[rpc](request, metadata=caller.metadata, timeout=caller.timeout_seconds)
        except grpc.RpcError as call:
            error = error_of(call)
            if error.request_id is None and isinstance(error, DeadlineExceeded):
                error = DeadlineExceeded("x-timeout-ms: passed before the answer was ready; allow more time")
            raise error from None

    async def close(self) -> None:
        await self._channel.close()

    def _method(self, method: MethodDescriptor) -> Any:
        return self._channel.unary_unary(
            f"/{SERVICE.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
