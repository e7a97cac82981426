"""Owns the evaluation of a filter on one record's attributes in memory.

Shards evaluate the same filters in SQL (`shard.filter_sql`). Both give the same result, even for numbers that do
not fit in 64 bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lookalike.model.filters import And, Equals, Exists, Filter, In, Not, Or, Range, Scalar

# A kind of scalar, and the scalar; see `comparable`.
Comparable = tuple[str, Scalar]

_ABSENT = object()
_INT64 = range(-(2**63), 2**63)


def matches(condition: Filter, attributes: Mapping[str, Any]) -> bool:
    """Whether decoded JSON attributes match the filter."""
    match condition:
        case And(filters):
            return all(matches(part, attributes) for part in filters)
        case Or(filters):
            return any(matches(part, attributes) for part in filters)
        case Not(part):
            return not matches(part, attributes)
        case Exists(field):
            return _value(attributes, field) is not _ABSENT
        case Equals(field, value):
            return comparable(value) in map(comparable, elements(attributes, field))
        case In(field, values):
            wanted = set(map(comparable, values))
            return any(comparable(element) in wanted for element in elements(attributes, field))
        case Range(field):
            return any(_is_within(condition, element) for element in elements(attributes, field))


def _value(attributes: Any, field: str) -> Any:
    value = attributes
    for name in field.split("."):
        value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


def elements(attributes: Mapping[str, Any], field: str) -> Sequence[Any]:
    """Returns the values of a field that a filter compares: the scalars in its list, or its one scalar."""
    value = _value(attributes, field)
    values = value if isinstance(value, list | tuple) else [value]
    return [element for element in values if isinstance(element, str | int | float)]


def comparable(value: Any) -> Comparable:
    """Returns a form of a scalar that compares as in JSON: true differs from 1, but 1.0 equals 1."""
    if isinstance(value, bool):
        return ("truth", value)
    return ("text", value) if isinstance(value, str) else ("number", _number(value))


def _number(value: float) -> float:
    """The number as SQLite compares it: integers over 64 bits become floats."""
    if isinstance(value, float) or value in _INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_within(bounds: Range, element: Any) -> bool:
    if isinstance(element, bool | str):
        return False
    number = _number(element)
    return (
        (bounds.gt is None or number > bounds.gt)
        and (bounds.gte is None or number >= bounds.gte)
        and (bounds.lt is None or number < bounds.lt)
        and (bounds.lte is None or number <= bounds.lte)
    )
