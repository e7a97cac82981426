"""Filters over attributes, as the SDK takes them. `lookalike.model.filters` defines them."""

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
