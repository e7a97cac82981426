"""The tree of errors and its table to gRPC status codes and back.

Raised near the cause, logged once at a process's boundary (`lookalike.rpc`), and raised again as the
same class in the client. Every message names what is wrong and what mends it."""

from __future__ import annotations

import grpc


class LookalikeError(Exception):
    """Base of all errors that Lookalike raises on purpose."""

    status = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.request_id: str | None = None


class InvalidRequest(LookalikeError):
    """The request itself is wrong: fix it before sending it again."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(LookalikeError):
    """The collection or record does not exist."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(LookalikeError):
    """The collection exists."""

    status = grpc.StatusCode.ALREADY_EXISTS


class CodeSpaceMismatch(LookalikeError):
    """Codes of another code space: encode again with the collection's encoder."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class PartitionUnavailable(LookalikeError):
    """A partition, or the encoder, does not answer. A write may have been applied in part; repeating it
    is harmless."""

    status = grpc.StatusCode.UNAVAILABLE


class Recovering(PartitionUnavailable):
    """A server is up but still loading."""


class SlotMoved(PartitionUnavailable):
    """A shard was asked for a slot that it does not serve, or no longer. Coordinators look where it is now."""


class Overloaded(LookalikeError):
    """No room for the request now (a full queue, a full disk): wait `retry_after_ms`."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(LookalikeError):
    """The answer did not come in time. A write may have been applied."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Cancelled(LookalikeError):
    """The caller cancelled the request."""

    status = grpc.StatusCode.CANCELLED


class Unauthenticated(LookalikeError):
    """The caller did not say who it is."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LookalikeError):
    """The caller may not do this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class Corruption(LookalikeError):
    """Stored data is damaged."""

    status = grpc.StatusCode.DATA_LOSS


class Internal(LookalikeError):
    """A defect in a server; its log has the details under the request's id."""


class CannotStart(LookalikeError):
    """A process cannot start as asked (config, port, data folder, weights). Never travels over gRPC."""


_WIRE_ERRORS: tuple[type[LookalikeError], ...] = (
    InvalidRequest,
    NotFound,
    AlreadyExists,
    CodeSpaceMismatch,
    PartitionUnavailable,
    Recovering,
    SlotMoved,
    Overloaded,
    DeadlineExceeded,
    Cancelled,
    Unauthenticated,
    PermissionDenied,
    Corruption,
    Internal,
)
_BY_NAME = {error.__name__: error for error in _WIRE_ERRORS}
_BY_STATUS: dict[grpc.StatusCode, type[LookalikeError]] = {}
for _error in _WIRE_ERRORS:
    _BY_STATUS.setdefault(_error.status, _error)


def name_of(error: LookalikeError) -> str:
    """The name under which an error travels: its class or the nearest above it in the table, else "Internal"."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _BY_NAME), Internal.__name__)


def by_name(name: str, message: str) -> LookalikeError:
    """The error that `name_of` named."""
    return _BY_NAME.get(name, Internal)(message)


def by_status(status: grpc.StatusCode, message: str) -> LookalikeError:
    """The error for a bare gRPC status, as other servers and gRPC itself send it."""
    return _BY_STATUS.get(status, Internal)(message)
