"""The tree of errors and its table to gRPC status codes and back.

Raised near the cause, logged once at a process's boundary (`lookalike.transport.rpc`), and raised again as the
same class in the client. Every message names what is wrong and what mends it."""

from __future__ import annotations


class LookalikeError(Exception):
    """Base of all errors that Lookalike raises on purpose."""

    # The name of the gRPC status that it travels as.
    status = "INTERNAL"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.request_id: str | None = None


class InvalidRequest(LookalikeError):
    """The request itself is wrong: fix it before sending it again."""

    status = "INVALID_ARGUMENT"


class NotFound(LookalikeError):
    """The collection or record does not exist."""

    status = "NOT_FOUND"


class AlreadyExists(LookalikeError):
    """The collection exists."""

    status = "ALREADY_EXISTS"


class CodeSpaceMismatch(LookalikeError):
    """Codes of another code space: encode again with the collection's encoder."""

    status = "FAILED_PRECONDITION"


class PartitionUnavailable(LookalikeError):
    """A partition, or the encoder, does not answer. A write may have been applied in part; repeating it
    is harmless."""

    status = "UNAVAILABLE"


class Recovering(PartitionUnavailable):
    """A server is up but still loading."""


class SlotMoved(PartitionUnavailable):
    """A shard was asked for a slot that it does not serve, or no longer. Coordinators look where it is now."""


class Overloaded(LookalikeError):
    """No room for the request now (a full queue, a full disk): wait `retry_after_ms`."""

    status = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(LookalikeError):
    """The answer did not come in time. A write may have been applied."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(LookalikeError):
    """The caller cancelled the request."""

    status = "CANCELLED"


class Unauthenticated(LookalikeError):
    """The caller did not say who it is."""

    status = "UNAUTHENTICATED"


class PermissionDenied(LookalikeError):
    """The caller may not do this."""

    status = "PERMISSION_DENIED"


class Corruption(LookalikeError):
    """Stored data is damaged."""

    status = "DATA_LOSS"


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
_BY_STATUS: dict[str, type[LookalikeError]] = {}
for _error in _WIRE_ERRORS:
    _BY_STATUS.setdefault(_error.status, _error)


def name_of(error: LookalikeError) -> str:
    """The name under which an error travels: its class or the nearest above it in the table, else "Internal"."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _BY_NAME), Internal.__name__)


def by_name(name: str, message: str) -> LookalikeError:
    """The error that `name_of` named."""
    return _BY_NAME.get(name, Internal)(message)


def by_status(status: str, message: str) -> LookalikeError:
    """The error for the name of a bare gRPC status, as other servers and gRPC itself send it."""
    return _BY_STATUS.get(status, Internal)(message)
