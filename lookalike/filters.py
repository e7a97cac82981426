"""Filters for searches, over the attributes of records. They are defined in `lookalike.model.filters`."""

from lookalike.model.filters import (
    And,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Range,
    Scalar,
    parse,
)

__all__ = ["And", "Equals", "Exists", "Filter", "In", "Not", "Or", "Range", "Scalar", "parse"]
