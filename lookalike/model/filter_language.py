"""Owns the JSON form of filters, which is the same in the SDK, on the command line and in REST. It follows the
conventions of document and vector databases:

    {"label": "cat"}                                     equals; {"label": null}: is there, and null
    {"label": {"$ne": "cat"}}                            does not equal; {"$nin": [...]}: none of
    {"label": {"$in": ["cat", "dog"]}}                   one of
    {"year": {"$gte": 2000, "$lt": 2010}}                range of numbers, texts or times
    {"taken": {"$gte": {"$date": "2026-05-01T00:00Z"}}}  a time or a date; the SDK also takes `datetime` values
    {"path": {"$prefix": "2024/"}}                       the text starts with
    {"camera.maker": {"$exists": true}}                  the field exists (dots reach into objects)
    {"$key": {"$prefix": "2024/"}}                       a condition on the record's key
    {"$and": [...]}  {"$or": [...]}  {"$not": {...}}     several names in one object mean "and"

docs/FILTERS.md defines each operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lookalike.model import times
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import (
    KEY,
    MAX_DEPTH,
    And,
    Equals,
    Exists,
    Filter,
    GivenFilter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    check,
    check_values,
)

_BOUNDS = ("$gt", "$gte", "$lt", "$lte")
_DATE = "$date"
# What the JSON form of an attribute's operators has, and what the protobuf form of REST has.
_MESSAGES = frozenset(("equals", "in", "range", "exists", "prefix", "and", "or", "not"))


def given(condition: GivenFilter) -> Filter | None:
    """Returns the filter that a caller gave as a filter or in JSON form. Raises InvalidRequest."""
    if condition is None:
        return None
    return check(condition) if isinstance(condition, Filter) else parse(condition)


def parse(document: Mapping[str, Any]) -> Filter:
    """Parses a JSON document and checks the filter. Raises InvalidRequest."""
    return check(_parse(document, depth=1))


def is_message(document: object) -> bool:
    """Whether a JSON document is the protobuf form of a filter, as REST also accepts it, and not this language: it
    has one name, that of a kind of message, and an object without operators."""
    if not isinstance(document, Mapping) or len(document) != 1:
        return False
    ((name, body),) = document.items()
    return name in _MESSAGES and isinstance(body, Mapping) and not any(inner.startswith("$") for inner in body)


def _parse(document: object, depth: int) -> Filter:
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"filter: is nested over {MAX_DEPTH} deep; flatten it")
    if not isinstance(document, Mapping) or not document:
        raise InvalidRequest(f'filter: {document!r:.80} is not a filter; use an object such as {{"label": "cat"}}')
    parts = tuple(part for name, value in document.items() for part in _parse_entry(name, value, depth))
    return parts[0] if len(parts) == 1 else And(parts)


def _parse_entry(name: object, value: object, depth: int) -> Iterator[Filter]:
    if not isinstance(name, str):
        raise InvalidRequest(f"filter: {name!r:.80} is not a field; name an attribute")
    if name in ("$and", "$or"):
        if not isinstance(value, list | tuple):
            raise InvalidRequest(f"filter: {name} takes a list of filters, not {type(value).__name__}")
        parts = tuple(_parse(part, depth + 1) for part in value)
        yield And(parts) if name == "$and" else Or(parts)
    elif name == "$not":
        yield Not(_parse(value, depth + 1))
    elif name.startswith("$") and name != KEY:
        raise InvalidRequest(f"filter: {name[:40]!r} is unknown; use $and, $or, $not, $key or a field name")
    elif isinstance(value, Mapping) and _DATE not in value:
        yield from _parse_operators(name, value)
    else:
        yield Equals(name, _value(name, value))


def _parse_operators(field: str, operators: Mapping[str, Any]) -> Iterator[Filter]:
    if not operators:
        raise InvalidRequest(f"filter: {field[:80]!r}: compares with an object; use dots to reach into objects")
    bounds = {name[1:]: _bound(field, name, operators[name]) for name in _BOUNDS if name in operators}
    if bounds:
        yield Range(field, **bounds)
    for name, value in operators.items():
        if name in _OPERATORS:
            yield _OPERATORS[name](field, name, value)
        elif name not in _BOUNDS:
            known = ", ".join((*_OPERATORS, *_BOUNDS))
            raise InvalidRequest(
                f"filter: {field[:80]!r}: operator {str(name)[:40]!r} is unknown; use one of {known}"
            )


def _bound(field: str, name: str, value: object) -> Any:
    """The bound of a range. Raises InvalidRequest for null, which would mean that there is none; `check` rejects
    other types."""
    if value is None:
        raise InvalidRequest(f"filter: {field[:80]!r}: {name} takes a number, a text or a time, not null")
    return _value(field, value)


def _equals(field: str, name: str, value: object) -> Filter:
    found = Equals(field, _value(field, value))
    return found if name == "$eq" else Not(found)


def _in(field: str, name: str, value: object) -> Filter:
    if not isinstance(value, list | tuple):
        raise InvalidRequest(f"filter: {field[:80]!r}: {name} takes a list, not {type(value).__name__}")
    check_values(field, len(value))
    found = In(field, tuple(_value(field, one) for one in value))
    return found if name == "$in" else Not(found)


def _prefix(field: str, name: str, value: object) -> Filter:
    return Prefix(field, value)  # type: ignore[arg-type]  # `check` rejects what is not text


def _exists(field: str, name: str, value: object) -> Filter:
    if not isinstance(value, bool):
        raise InvalidRequest(f"filter: {field[:80]!r}: {name} takes true or false")
    return Exists(field) if value else Not(Exists(field))


_OPERATORS: Mapping[str, Callable[[str, str, object], Filter]] = {
    "$eq": _equals,
    "$ne": _equals,
    "$in": _in,
    "$nin": _in,
    "$prefix": _prefix,
    "$exists": _exists,
}


def _value(field: str, value: object) -> Any:
    """The value that a condition compares with. `check` rejects what is not a scalar."""
    if not isinstance(value, Mapping) or _DATE not in value:
        return value
    text = value[_DATE]
    found = times.parse(text) if isinstance(text, str) and len(value) == 1 else None
    if found is None:
        raise InvalidRequest(
            f'filter: {field[:80]!r}: {dict(value)!r:.80} is not a date; write {{"$date":'
            ' "2026-05-01T08:30:00Z"}, or the date alone'
        )
    return times.text_of(found)
