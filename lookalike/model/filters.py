"""Filters: conditions on a record's attributes and its key, as a small tree of plain data, and the limits on it.

`lookalike.model.filter_language` owns the JSON form, docs/FILTERS.md the meaning of each operator. Shards evaluate
filters in SQL (`shard.filter_sql`), other programs with `lookalike.model.matching`."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lookalike.model import times
from lookalike.model.errors import InvalidRequest

# A JSON scalar. None is null.
Scalar = str | int | float | bool | None
Bound = str | int | float
# The field that names a record's key in a condition.
KEY = "$key"
MAX_VALUES = 100_000
MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_COMPARED = 2 * MAX_VALUES
MAX_FILTER_BYTES = 16 * 1024 * 1024
_NUMBER_BYTES = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Equals:
    field: str
    value: Scalar
    # Whether `value` is a bool: in Python, True equals 1; in a filter, it does not.
    _kind: bool = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", times.plain(self.value))
        object.__setattr__(self, "_kind", isinstance(self.value, bool))


@dataclasses.dataclass(frozen=True, slots=True)
class In:
    field: str
    values: tuple[Scalar, ...]
    _kinds: tuple[bool, ...] = dataclasses.field(init=False, repr=False)
    size: int = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # There may be 100,000 values, so what applies to few types is done only if one of them occurs.
        types = set(map(type, self.values))
        if any(issubclass(type, datetime.date) for type in types):
            object.__setattr__(self, "values", tuple(map(times.plain, self.values)))
        kinds = tuple(isinstance(value, bool) for value in self.values) if bool in types else ()
        object.__setattr__(self, "_kinds", kinds)
        texts = [value for value in self.values if isinstance(value, str)]
        size = _bytes_of("".join(texts)) + _NUMBER_BYTES * (len(self.values) - len(texts))
        object.__setattr__(self, "size", size)


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Bounds, all of them numbers or all of them texts."""

    field: str
    gt: Bound | None = None
    gte: Bound | None = None
    lt: Bound | None = None
    lte: Bound | None = None

    def __post_init__(self) -> None:
        for name in ("gt", "gte", "lt", "lte"):
            object.__setattr__(self, name, times.plain(getattr(self, name)))

    @property
    def bounds(self) -> dict[str, Bound]:
        """The bounds that are set, by name."""
        given = {"gt": self.gt, "gte": self.gte, "lt": self.lt, "lte": self.lte}
        return {name: bound for name, bound in given.items() if bound is not None}


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """The field is a text that starts with `text`."""

    field: str
    text: str


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


Filter = Equals | In | Range | Prefix | Exists | And | Or | Not
# What callers may give as a filter.
GivenFilter = Filter | Mapping[str, Any] | None


def named_fields(condition: Filter) -> Iterator[str]:
    """Yields the attributes that the filter names."""
    match condition:
        case And(filters) | Or(filters):
            for part in filters:
                yield from named_fields(part)
        case Not(part):
            yield from named_fields(part)
        case _:
            if condition.field != KEY:
                yield condition.field


def size_of(condition: Filter | None) -> int:
    """Returns the approximate size of the filter's values, in bytes."""
    match condition:
        case In(size=size):
            return size
        case And(filters) | Or(filters):
            return sum(map(size_of, filters))
        case Not(part):
            return size_of(part)
        case Equals(_, value):
            return _bytes_of(value)
        case Range():
            return sum(map(_bytes_of, condition.bounds.values()))
        case Prefix(_, text):
            return _bytes_of(text)
    return 0


def _bytes_of(value: object) -> int:
    if not isinstance(value, str):
        return _NUMBER_BYTES
    return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))


def check(condition: Filter) -> Filter:
    """Returns the filter if it is well formed and within the limits on size. Raises InvalidRequest otherwise."""
    if _check(condition, depth=1) > MAX_CONDITIONS:
        raise InvalidRequest(f"filter: has over {MAX_CONDITIONS} conditions; use fewer, or $in for many values")
    if _compared(condition) > MAX_COMPARED:
        raise InvalidRequest(f"filter: compares with over {MAX_COMPARED:,} values; use fewer")
    if (size := size_of(condition)) > MAX_FILTER_BYTES:
        raise InvalidRequest(
            f"filter: its values take {size:,} bytes, over {MAX_FILTER_BYTES:,}; use fewer or shorter values"
        )
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
            _check_scalars(field, values)
        case Range():
            _check_range(condition)
        case Prefix(field, text):
            if not isinstance(text, str):
                raise InvalidRequest(f"filter: {field[:80]!r}: $prefix takes text, not {type(text).__name__}")
            _check_scalar(field, text)
    return 1


def _check_range(condition: Range) -> None:
    field, bounds = condition.field[:80], condition.bounds
    for name, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, str | int | float):
            raise InvalidRequest(
                f"filter: {field!r}: ${name} takes a number, a text or a time, not {type(bound).__name__}"
            )
        if not isinstance(bound, float):
            _check_scalar(field, bound)
    if not bounds or any(isinstance(bound, float) and math.isnan(bound) for bound in bounds.values()):
        raise InvalidRequest(f"filter: {field!r}: a range needs at least one bound, each a number or a text")
    if len({isinstance(bound, str) for bound in bounds.values()}) > 1:
        raise InvalidRequest(f"filter: {field!r}: a range has a number and a text as bounds; use one kind")


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


def _check_scalars(field: str, values: Sequence[Any]) -> None:
    """Checks each value, if possible in a tenth of the time: texts as one text, and only the extreme integers."""
    types = set(map(type, values))
    if types == {str}:
        values = ["".join(values)]
    elif types == {int}:
        values = [min(values), max(values)]
    for value in values:
        _check_scalar(field, value)


def _check_scalar(field: str, value: object) -> None:
    if value is not None and not isinstance(value, str | int | float):
        raise InvalidRequest(
            f"filter: {field[:80]!r}: compares with a {type(value).__name__}; use text, a number, true, false,"
            " null, a date or a time"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"filter: {field[:80]!r}: {value} is not a JSON number")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidRequest(
            f"filter: {field[:80]!r}: {str(value)[:40]} does not fit in 64 bits; store such numbers as text"
        )
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"filter: {field[:80]!r}: compares with text that is not valid Unicode") from None
