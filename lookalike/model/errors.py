"""The tree of errors and its mapping to gRPC status codes and back.

An error is raised near its cause, logged once at a process's boundary (`lookalike.transport.rpc`), and raised as
the same class in the client. Every message names the problem and the remedy."""

from __future__ import annotations


class LookalikeError(Exception):
    """Base class of all errors that Lookalike defines."""

    # The name of the gRPC status that the error maps to.
    status = "INTERNAL"

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms
        self.request_id: str | None = None


class InvalidRequest(LookalikeError):
    """The request is invalid: fix it before sending it again."""

    status = "INVALID_ARGUMENT"


class NotFound(LookalikeError):
    """The collection or record does not exist."""

    status = "NOT_FOUND"


class AlreadyExists(LookalikeError):
    """The collection exists."""

    status = "ALREADY_EXISTS"


class CodeSpaceMismatch(LookalikeError):
    """The codes are of another code space: encode again with the collection's encoder."""

    status = "FAILED_PRECONDITION"


class VersionConflict(LookalikeError):
    """The stored record does not have the version that a write names in `if_version`: read it again."""

    status = "ABORTED"


class PartitionUnavailable(LookalikeError):
    """A partition, or the encoder, does not answer. A write may have been applied in part; repeating it is
    harmless."""

    status = "UNAVAILABLE"


class Recovering(PartitionUnavailable):
    """A server is up but still loading."""


class SlotMoved(PartitionUnavailable):
    """The shard does not serve the slot, or no longer serves it. Coordinators look up where the slot is now."""


class Overloaded(LookalikeError):
    """The server has no capacity for the request now (a full queue, a full disk): retry after `retry_after_ms`."""

    status = "RESOURCE_EXHAUSTED"


class DeadlineExceeded(LookalikeError):
    """There was no response within the deadline. A write may have been applied."""

    status = "DEADLINE_EXCEEDED"


class Cancelled(LookalikeError):
    """The caller cancelled the request."""

    status = "CANCELLED"


class Unauthenticated(LookalikeError):
    """The caller sent no valid API key."""

    status = "UNAUTHENTICATED"


class PermissionDenied(LookalikeError):
    """The caller may not do this."""

    status = "PERMISSION_DENIED"


class Corruption(LookalikeError):
    """Stored data is damaged."""

    status = "DATA_LOSS"


class Internal(LookalikeError):
    """A bug in a server. Its log has the details under the request's id."""


class CannotStart(LookalikeError):
    """A process cannot start (config, port, data folder, weights). Never sent over gRPC."""


class UnknownFieldWarning(UserWarning):
    """A filter names a field that no record has. Issued by calls whose result has no warnings."""


_WIRE_ERRORS: tuple[type[LookalikeError], ...] = (
    InvalidRequest,
    NotFound,
    AlreadyExists,
    CodeSpaceMismatch,
    VersionConflict,
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
    """The name that an error is sent under: its class or nearest base in `_WIRE_ERRORS`, otherwise "Internal"."""
    return next((kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _BY_NAME), Internal.__name__)


def by_name(name: str, message: str) -> LookalikeError:
    """The error that was sent under this name: the inverse of `name_of`."""
    return _BY_NAME.get(name, Internal)(message)


def by_status(status: str, message: str) -> LookalikeError:
    """The error for a gRPC status that came without an error name: from gRPC itself, or from a proxy."""
    return _BY_STATUS.get(status, Internal)(message)
