"""Owns the evaluation of a filter on one record in memory.

Shards evaluate the same filters in SQL (`shard.filter_sql`). Both give the same result, even for numbers that do
not fit in 64 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lookalike.model.filters import KEY, And, Equals, Exists, Filter, In, Not, Or, Prefix, Range, Scalar

# A kind of scalar, and the scalar; see `comparable`.
Comparable = tuple[str, Scalar]
# Whether a record with these attributes and this key matches.
Matcher = Callable[[Mapping[str, Any], str], bool]

_ABSENT = object()
_INT64 = range(-(2**63), 2**63)


def matcher(condition: Filter) -> Matcher:
    """Returns a function that says whether a record with decoded JSON attributes and a key matches the filter."""
    match condition:
        case And(filters):
            parts = [matcher(part) for part in filters]
            return lambda attributes, key: all(part(attributes, key) for part in parts)
        case Or(filters):
            parts = [matcher(part) for part in filters]
            return lambda attributes, key: any(part(attributes, key) for part in parts)
        case Not(inner):
            part = matcher(inner)
            return lambda attributes, key: not part(attributes, key)
        case Exists(field):
            return lambda attributes, key: field == KEY or _value(attributes, field) is not _ABSENT
    field, test = condition.field, _test(condition)
    if field == KEY:
        return lambda attributes, key: test(key)
    return lambda attributes, key: any(map(test, elements(attributes, field)))


def _test(condition: Equals | In | Prefix | Range) -> Callable[[Any], bool]:
    """The test that one of a field's values must pass."""
    match condition:
        case Equals(_, value):
            wanted = {comparable(value)}
            return lambda element: comparable(element) in wanted
        case In(_, values):
            some = frozenset(map(comparable, values))
            return lambda element: comparable(element) in some
        case Prefix(_, text):
            return lambda element: isinstance(element, str) and element.startswith(text)
        case Range():
            return lambda element: _is_within(condition, element)


def _value(attributes: Any, field: str) -> Any:
    value = attributes
    for name in field.split("."):
        value = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
    return value


def elements(attributes: Mapping[str, Any], field: str) -> Sequence[Any]:
    """Returns the values of a field that a filter compares: the scalars in its list, or its one scalar."""
    value = _value(attributes, field)
    values = value if isinstance(value, list | tuple) else [value]
    return [element for element in values if element is None or isinstance(element, str | int | float)]


def comparable(value: Any) -> Comparable:
    """Returns a form of a scalar that compares as in JSON: true differs from 1, but 1.0 equals 1."""
    if isinstance(value, bool):
        return ("truth", value)
    if value is None:
        return ("null", value)
    return ("text", value) if isinstance(value, str) else ("number", _number(value))


def _number(value: float) -> float:
    """The number as SQLite compares it: integers over 64 bits become floats."""
    if isinstance(value, float) or value in _INT64:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_within(range: Range, element: Any) -> bool:
    bounds: Mapping[str, Any] = range.bounds
    is_text = isinstance(next(iter(bounds.values())), str)
    if element is None or isinstance(element, bool) or isinstance(element, str) != is_text:
        return False
    value = element if is_text else _number(element)
    return (
        ("gt" not in bounds or value > bounds["gt"])
        and ("gte" not in bounds or value >= bounds["gte"])
        and ("lt" not in bounds or value < bounds["lt"])
        and ("lte" not in bounds or value <= bounds["lte"])
    )
