"""Filters: conditions on a record's attributes, as a small tree of plain data, and their JSON form.

The JSON form follows the conventions of document and vector databases:

    {"label": "cat"}                                     equals
    {"label": {"$in": ["cat", "dog"]}}                   one of
    {"year": {"$gte": 2000, "$lt": 2010}}                numeric range
    {"camera.maker": {"$exists": true}}                  the field exists (dots reach into objects)
    {"$and": [...]}  {"$or": [...]}  {"$not": {...}}     several names in one object mean "and"

Shards evaluate filters in SQL (`shard.filter_sql`), other programs with `lookalike.model.matching`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from lookalike.model.errors import InvalidRequest

Scalar = str | int | float | bool
MAX_VALUES = 1_000
MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_COMPARED = 10_000
# Above this, adjacent integers are the same double, and JSON parsers disagree on their values.
_EXACT = 2**53
_BOUNDS = ("$gt", "$gte", "$lt", "$lte")


@dataclasses.dataclass(frozen=True, slots=True)
class Equals:
    field: str
    value: Scalar
    # Whether `value` is a bool: in Python, True equals 1; in a filter, it does not.
    _kind: bool = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kind", isinstance(self.value, bool))


@dataclasses.dataclass(frozen=True, slots=True)
class In:
    field: str
    values: tuple[Scalar, ...]
    _kinds: tuple[bool, ...] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_kinds", tuple(isinstance(value, bool) for value in self.values))


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    field: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Exists:
    field: str


@dataclasses.dataclass(frozen=True, slots=True)
class And:
    filters: tuple[Filter, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Or:
    filters: tuple[Filter, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Not:
    filter: Filter


Filter = Equals | In | Range | Exists | And | Or | Not
# What callers may give as a filter.
GivenFilter = Filter | Mapping[str, Any] | None


def compared_fields(condition: Filter) -> Iterator[str]:
    """Yields the fields whose values the filter compares. `Exists` compares no value."""
    match condition:
        case Equals(field) | In(field) | Range(field):
            yield field
        case And(filters) | Or(filters):
            for part in filters:
                yield from compared_fields(part)
        case Not(part):
            yield from compared_fields(part)


def check(condition: Filter) -> Filter:
    """Returns the filter if it is well formed and within the limits on size. Raises InvalidRequest otherwise."""
    if _check(condition, depth=1) > MAX_CONDITIONS:
        raise InvalidRequest(f"filter: has over {MAX_CONDITIONS} conditions; use fewer, or $in for many values")
    if _compared(condition) > MAX_COMPARED:
        raise InvalidRequest(f"filter: compares with over {MAX_COMPARED:,} values; use fewer")
    return condition


def _compared(condition: Filter) -> int:
    match condition:
        case In(_, values):
            return len(values)
        case And(filters) | Or(filters):
            return sum(_compared(part) for part in filters)
        case Not(part):
            return _compared(part)
    return 1


def check_values(field: str, count: int) -> None:
    """Raises InvalidRequest unless `$in` may have this many values."""
    if not 1 <= count <= MAX_VALUES:
        raise InvalidRequest(f"filter: {field[:80]!r}: $in takes 1..{MAX_VALUES:,} values, not {count:,}")


def _check(condition: Filter, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise InvalidRequest(f"filter: is nested over {MAX_DEPTH} deep; flatten it")
    match condition:
        case And(filters) | Or(filters):
            if not filters:
                raise InvalidRequest("filter: $and and $or need at least one filter")
            return sum(_check(part, depth + 1) for part in filters)
        case Not(part):
            return _check(part, depth + 1)
    check_field(condition.field)
    match condition:
        case Equals(_, value):
            _check_scalar(condition.field, value)
        case In(field, values):
            check_values(field, len(values))
            for value in values:
                _check_scalar(field, value)
        case Range(field, gt, gte, lt, lte):
            bounds = [bound for bound in (gt, gte, lt, lte) if bound is not None]
            if not bounds or any(math.isnan(bound) for bound in bounds):
                raise InvalidRequest(f"filter: {field[:80]!r}: a range needs at least one bound, each a number")
            if any(math.isfinite(bound) and abs(bound) > _EXACT for bound in bounds):
                raise InvalidRequest(f"filter: {field[:80]!r}: a range's bounds must be within 2**53 of zero")
    return 1


def check_field(field: str, subject: str = "filter") -> None:
    """Raises InvalidRequest unless `field` can name an attribute."""
    if not isinstance(field, str):
        raise InvalidRequest(f"{subject}: field {field!r:.80} is {type(field).__name__}; give its name, as text")
    broken = any(mark in '"\\' or not mark.isprintable() for mark in field)
    if broken or any(not name for name in field.split(".")):
        raise InvalidRequest(
            f"{subject}: field {field[:80]!r} is empty or not a path; name an attribute, with dots to reach into"
            " objects"
        )
    try:
        field.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{subject}: field {field[:80]!r} cannot be written as UTF-8") from None


def _check_scalar(field: str, value: object) -> None:
    if not isinstance(value, str | int | float):
        raise InvalidRequest(
            f"filter: {field[:80]!r}: compares with a {type(value).__name__}; use text, a number, true or false"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"filter: {field[:80]!r}: {value} is not a JSON number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequest(f"filter: {field[:80]!r}: {value} does not fit in 64 bits")


def given(condition: GivenFilter) -> Filter | None:
    """Returns the filter that a caller gave as a filter or in JSON form. Raises InvalidRequest."""
    if condition is None:
        return None
    return check(condition) if isinstance(condition, Filter) else parse(condition)


def parse(document: Mapping[str, Any]) -> Filter:
    """Parses a JSON document and checks the filter. Raises InvalidRequest."""
    return check(_parse(document, depth=1))


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
    elif name.startswith("$"):
        raise InvalidRequest(f"filter: {name[:40]!r} is unknown; use $and, $or, $not or a field name")
    elif isinstance(value, Mapping):
        yield from _parse_operators(name, value)
    else:
        yield Equals(name, value)  # type: ignore[arg-type]  # `check` rejects values that are not scalars


def _parse_operators(field: str, operators: Mapping[str, Any]) -> Iterator[Filter]:
    bounds = {name: operators[name] for name in _BOUNDS if name in operators}
    if bounds:
        for name, bound in bounds.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float):
                raise InvalidRequest(f"filter: {field[:80]!r}: {name} takes a number, not {type(bound).__name__}")
            if isinstance(bound, int) and abs(bound) > _EXACT:
                raise InvalidRequest(f"filter: {field[:80]!r}: {name} must be within 2**53 of zero")
        yield Range(field, **{name[1:]: float(bound) for name, bound in bounds.items()})
    for name, value in operators.items():
        if name == "$eq":
            yield Equals(field, value)
        elif name == "$in":
            if not isinstance(value, list | tuple):
                raise InvalidRequest(f"filter: {field[:80]!r}: $in takes a list, not {type(value).__name__}")
            check_values(field, len(value))
            yield In(field, tuple(value))
        elif name == "$exists":
            if not isinstance(value, bool):
                raise InvalidRequest(f"filter: {field[:80]!r}: $exists takes true or false")
            yield Exists(field) if value else Not(Exists(field))
        elif name not in _BOUNDS:
            known = ", ".join(("$eq", "$in", *_BOUNDS, "$exists"))
            raise InvalidRequest(
                f"filter: {field[:80]!r}: operator {str(name)[:40]!r} is unknown; use one of {known}"
            )
    if not operators:
        raise InvalidRequest(f"filter: {field[:80]!r}: compares with an object; use dots to reach into objects")
