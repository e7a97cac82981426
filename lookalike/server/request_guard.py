"""Owns the checks that the requests of one call pass before its handler runs: authorization, a valid message, the
deadline, the caller's rate and admission."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc

from lookalike.model.errors import DeadlineExceeded, InvalidRequest
from lookalike.server.admission import Admission
from lookalike.server.security.authorizer import Authorizer, rate_exceeded
from lookalike.server.security.keys import Key
from lookalike.transport.rpc import MAX_MESSAGE_BYTES, too_large

Context = grpc.aio.ServicerContext[Any, Any]
_INVALID = "request: is not a valid message of this method (a string that is not UTF-8, or a truncated message)"


class RequestGuard:
    """The checks of one call."""

    def __init__(self, call: grpc.HandlerCallDetails, admission: Admission, authorizer: Authorizer | None) -> None:
        """Guards one call.

        Args:
            call: The call; its method is "/PACKAGE.SERVICE/METHOD", of which the authorizer gets the last part.
            admission: Limits the bytes of requests in flight.
            authorizer: Checks the caller's key; None to let every caller in.
        """
        self.method: str = call.method
        self._name = self.method.rpartition("/")[2]
        self._metadata = call.invocation_metadata
        self._admission = admission
        self._authorizer = authorizer
        self._key: Key | None = None

    def authenticate(self) -> None:
        """Raises Unauthenticated for a caller without a valid key or secret."""
        if self._authorizer is not None:
            self._key = self._authorizer.authenticate(self._name, _text_metadata(self._metadata))

    def admit(self, request: Any, context: Context) -> contextlib.AbstractContextManager[None]:
        """Checks a request, and counts it as in flight while the block runs.

        Raises:
            InvalidRequest: If the request is not a valid message.
            DeadlineExceeded: If the request's deadline has passed.
            PermissionDenied: If the caller's key does not permit the request.
            Overloaded: If the request exceeds the key's rate, or too many bytes are in flight.
        """
        check_message(request)
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded("the deadline passed before the request was handled; allow more time")
        if wait := self._seconds_to_wait(request):
            raise rate_exceeded(wait)
        return self._admission.admit(request.ByteSize())

    async def admit_from_stream(self, request: Any) -> None:
        """Checks one request of a stream. Also checks the key again, which may have been revoked since the stream
        began. A request above the key's rate waits, which slows its sender down."""
        self.authenticate()
        check_message(request)
        while wait := self._seconds_to_wait(request):  # noqa: ASYNC110 -- only time refills the rate
            await asyncio.sleep(wait)

    def _seconds_to_wait(self, request: Any) -> float:
        return 0.0 if self._authorizer is None else self._authorizer.authorize(self._name, self._key, request)


class _Refused:
    """Replaces a request that the guard is to refuse. reason: the error's text."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def decode_or_mark(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Wraps a decoder: for an invalid or too large message it returns a marker, which `check_message` refuses, and
    does not raise."""

    def decode_request(data: bytes) -> Any:
        if len(data) > MAX_MESSAGE_BYTES:
            return _Refused(too_large(f"it has {len(data):,} bytes"))
        try:
            return decode(data)
        except Exception:
            return _Refused(_INVALID)

    return decode_request


def check_message(request: Any) -> None:
    """Raises InvalidRequest for a message that was not decoded."""
    if isinstance(request, _Refused):
        raise InvalidRequest(request.reason)


def _text_metadata(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}
