"""The errors that the SDK raises. Defined in `lookalike.model.errors`."""

from lookalike.model.errors import (
    AlreadyExists,
    Cancelled,
    CannotStart,
    CodeSpaceMismatch,
    Corruption,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    PartitionUnavailable,
    PermissionDenied,
    Recovering,
    SlotMoved,
    Unauthenticated,
)

__all__ = [
    "AlreadyExists",
    "Cancelled",
    "CannotStart",
    "CodeSpaceMismatch",
    "Corruption",
    "DeadlineExceeded",
    "Internal",
    "InvalidRequest",
    "LookalikeError",
    "NotFound",
    "Overloaded",
    "PartitionUnavailable",
    "PermissionDenied",
    "Recovering",
    "SlotMoved",
    "Unauthenticated",
]
