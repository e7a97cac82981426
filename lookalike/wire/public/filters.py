"""Owns the codec of filters, in both directions. A message that is malformed or over a size limit is rejected
while it is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from lookalike.model import filters
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import filter_pb2

# Up to this many values of `$in` travel as scalars; more as columns.
_FEW_VALUES = 1_000
# The integers within this are exact as doubles.
_EXACT = 2**53


def filter_to_wire(condition: filters.Filter) -> filter_pb2.Filter:
    match condition:
        case filters.Equals(field, value):
            return filter_pb2.Filter(equals=filter_pb2.Equals(field=field, value=scalar_to_wire(value)))
        case filters.In(field, values):
            message = filter_pb2.Filter()
            getattr(message, "in").CopyFrom(_in_to_wire(field, values))
            return message
        case filters.Range(field):
            return filter_pb2.Filter(range=_range_to_wire(condition))
        case filters.Prefix(field, text):
            return filter_pb2.Filter(prefix=filter_pb2.Prefix(field=field, text=text))
        case filters.Exists(field):
            return filter_pb2.Filter(exists=filter_pb2.Exists(field=field))
        case filters.And(parts) | filters.Or(parts):
            joined = filter_pb2.Filters(filters=[filter_to_wire(part) for part in parts])
            message = filter_pb2.Filter()
            getattr(message, "and" if isinstance(condition, filters.And) else "or").CopyFrom(joined)
            return message
        case filters.Not(part):
            message = filter_pb2.Filter()
            getattr(message, "not").CopyFrom(filter_to_wire(part))
            return message


def _in_to_wire(field: str, values: Sequence[filters.Scalar]) -> filter_pb2.In:
    if len(values) <= _FEW_VALUES:
        return filter_pb2.In(field=field, values=map(scalar_to_wire, values))
    return filter_pb2.In(
        field=field,
        texts=[value for value in values if isinstance(value, str)],
        integers=[value for value in values if _is_integer(value)],
        values=[scalar_to_wire(value) for value in values if not (isinstance(value, str) or _is_integer(value))],
    )


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _range_to_wire(condition: filters.Range) -> filter_pb2.Range:
    message = filter_pb2.Range(field=condition.field)
    for name, bound in condition.bounds.items():
        if isinstance(bound, str) or (isinstance(bound, int) and abs(bound) > _EXACT):
            getattr(message, f"{name}_value").CopyFrom(scalar_to_wire(bound))
        else:
            setattr(message, name, float(bound))
    return message


def filter_from_wire(message: filter_pb2.Filter) -> filters.Filter:
    """Decodes and checks a filter. Raises InvalidRequest if it is malformed or over a limit on its size."""
    return filters.check(read_filter(message))


def read_filter(message: filter_pb2.Filter) -> filters.Filter:
    """Decodes a filter and checks its form, depth and size, but not its values: `lookalike.model.filters.check`
    does that. Raises InvalidRequest."""
    return _filter_from_wire(message, 1, [filters.MAX_CONDITIONS])


def _filter_from_wire(message: filter_pb2.Filter, depth: int, room: list[int]) -> filters.Filter:
    """`room` is a list with one element: how many more filters the whole tree may have."""
    if depth > filters.MAX_DEPTH:
        raise InvalidRequest(f"filter: is nested over {filters.MAX_DEPTH} levels deep; flatten it")
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("filter: is empty; set one of its kinds, or omit it")
    body = getattr(message, kind)
    match kind:
        case "equals":
            return filters.Equals(body.field, scalar_from_wire(body.field, body.value))
        case "in":
            filters.check_values(body.field, len(body.values) + len(body.texts) + len(body.integers))
            scalars = (scalar_from_wire(body.field, value) for value in body.values)
            return filters.In(body.field, (*scalars, *body.texts, *body.integers))
        case "range":
            return _range_from_wire(body)
        case "prefix":
            return filters.Prefix(body.field, body.text)
        case "exists":
            return filters.Exists(body.field)
        case "not":
            return filters.Not(_filter_from_wire(body, depth + 1, room))
    room[0] -= len(body.filters)
    if room[0] < 0:
        raise InvalidRequest(f"filter: has over {filters.MAX_CONDITIONS} conditions; use fewer, or $in")
    parts = tuple(_filter_from_wire(part, depth + 1, room) for part in body.filters)
    return filters.And(parts) if kind == "and" else filters.Or(parts)


def _range_from_wire(message: filter_pb2.Range) -> filters.Range:
    bounds: dict[str, Any] = {}
    for name in ("gt", "gte", "lt", "lte"):
        if message.HasField(f"{name}_value"):  # type: ignore[arg-type]  # a name that is put together
            bounds[name] = scalar_from_wire(message.field, getattr(message, f"{name}_value"))
            if bounds[name] is None:
                raise InvalidRequest(f"filter: {message.field[:80]!r}: {name} is null; set a number or a text")
        elif message.HasField(name):
            bounds[name] = getattr(message, name)
    return filters.Range(message.field, **bounds)


def scalar_to_wire(value: filters.Scalar) -> filter_pb2.Scalar:
    """Encodes a JSON scalar."""
    match value:
        case None:
            return filter_pb2.Scalar(null=True)
        case bool():
            return filter_pb2.Scalar(boolean=value)
        case int():
            return filter_pb2.Scalar(integer=value)
        case float():
            return filter_pb2.Scalar(number=value)
        case _:
            return filter_pb2.Scalar(text=value)


def scalar_from_wire(field: str, message: filter_pb2.Scalar) -> filters.Scalar:
    """Decodes a JSON scalar of a field. Raises InvalidRequest if it is empty."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(
            f"filter: {field}: has no value to compare with; set text, number, integer, boolean or null"
        )
    if kind == "null":
        return None
    value: filters.Scalar = getattr(message, kind)
    return value


def value_from_wire(field: str, message: filter_pb2.Scalar) -> str | int | float | bool:
    """Decodes the value of a facet or a group, which is never null."""
    value = scalar_from_wire(field, message)
    assert value is not None, "nulls are in no facet and in no group"
    return value
