"""Owns the codec of filters, in both directions. A message that is malformed or over a size limit is rejected
while it is decoded."""

from __future__ import annotations

from lookalike.model import filters
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import filter_pb2


def filter_to_wire(condition: filters.Filter) -> filter_pb2.Filter:
    match condition:
        case filters.Equals(field, value):
            return filter_pb2.Filter(equals=filter_pb2.Equals(field=field, value=scalar_to_wire(value)))
        case filters.In(field, values):
            scalars = [scalar_to_wire(value) for value in values]
            message = filter_pb2.Filter()
            getattr(message, "in").CopyFrom(filter_pb2.In(field=field, values=scalars))
            return message
        case filters.Range(field, gt, gte, lt, lte):
            return filter_pb2.Filter(range=filter_pb2.Range(field=field, gt=gt, gte=gte, lt=lt, lte=lte))
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
            filters.check_values(body.field, len(body.values))
            return filters.In(body.field, tuple(scalar_from_wire(body.field, value) for value in body.values))
        case "range":
            bounds = {name: getattr(body, name) for name in ("gt", "gte", "lt", "lte") if body.HasField(name)}
            return filters.Range(body.field, **bounds)
        case "exists":
            return filters.Exists(body.field)
        case "not":
            return filters.Not(_filter_from_wire(body, depth + 1, room))
    room[0] -= len(body.filters)
    if room[0] < 0:
        raise InvalidRequest(f"filter: has over {filters.MAX_CONDITIONS} conditions; use fewer, or $in")
    parts = tuple(_filter_from_wire(part, depth + 1, room) for part in body.filters)
    return filters.And(parts) if kind == "and" else filters.Or(parts)


def scalar_to_wire(value: filters.Scalar) -> filter_pb2.Scalar:
    """Encodes a JSON scalar."""
    match value:
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
            f"filter: {field}: has no value to compare with; set text, number, integer or boolean"
        )
    value: filters.Scalar = getattr(message, kind)
    return value
