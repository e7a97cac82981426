"""Owns the translation of a filter into SQL over the `attributes` column. Names and values from a filter are
always bound as parameters; the SQL text consists of this file's own literals only."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from lookalike.model.filters import KEY, And, Equals, Exists, Filter, In, Not, Or, Prefix, Range, Scalar
from lookalike.model.records import encode_attributes
from lookalike.model.times import text_of
from lookalike.model.ttl import Expired, time_of

Parameters = list[str | int | float]
# More values than these are bound as one JSON array, which SQLite reads into a table once per statement.
_FEW_VALUES = 8
# A whole number below this is written in digits, and so is the same number as a float ("7" and "7.0").
_MAX_IN_DIGITS = 10**15
_TEXT = ("text",)
_NUMBERS = ("integer", "real")
_UPPER = ("<", "<=")
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]"
_COMPARISONS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
# The last code point, and those around the surrogates, which no text contains.
_LAST = "\U0010ffff"
_FIRST_SURROGATE, _AFTER_SURROGATES = 0xD800, 0xE000


@dataclasses.dataclass(frozen=True, slots=True)
class _Test:
    """A condition on a JSON value.

    Attributes:
        types: The types of the value for which the condition may hold, as json_type returns them.
        condition: SQL, with {value} in place of the value.
        parameters: The parameters of the condition.
        bounds: The comparisons of a range of numbers, one for each parameter.
        written: Texts of which attributes that pass contain one; None if there are no such texts.
    """

    types: tuple[str, ...]
    condition: str
    parameters: Parameters
    bounds: tuple[str, ...] = ()
    written: tuple[str, ...] | None = None

    def sql(self, type: str, value: str) -> str:
        """Returns the condition on a value whose type and value are these SQL expressions."""
        types = ", ".join(f"'{name}'" for name in self.types)
        return f"({type} IN ({types}) AND {self.condition.format(value=value)})"


def columns_of(position: int, field: str) -> str:
    """Returns SQL that defines two columns of the table `records`, with an attribute's type and value.

    Single quotes in the field are doubled; `filters.check_field` rejects double quotes.
    """
    path = _path(field).replace("'", "''")
    return (
        f", type_{position} TEXT AS (json_type(attributes, '{path}')) VIRTUAL"
        f", value_{position} ANY AS (json_extract(attributes, '{path}')) VIRTUAL"
    )


def index_of(position: int) -> str:
    """Returns SQL that creates the index on the columns of an attribute."""
    return f"CREATE INDEX attribute_{position} ON records (type_{position}, value_{position})"


def column_of(field: str, indexed: Sequence[str]) -> tuple[str, str, Parameters]:
    """Returns SQL expressions for the JSON type and the value of a field, and the parameters of a statement that
    uses the type, the value and the type, in this order."""
    if field in indexed:
        return f"type_{indexed.index(field)}", f"value_{indexed.index(field)}", []
    return "json_type(attributes, ?)", "json_extract(attributes, ?)", [_path(field)] * 3


def where(condition: Filter, indexed: Sequence[str] = ()) -> tuple[str, Parameters]:
    """Translates a filter.

    Args:
        condition: The filter.
        indexed: The fields that have columns (`columns_of`), in the order of their positions. Conditions on these
            fields use the columns.

    Returns:
        An SQL condition on a row of the table `records`, and its parameters in order.
    """
    match condition:
        case Exists(field):
            if field == KEY:
                return "TRUE", []
            if field in indexed:
                return f"type_{indexed.index(field)} IS NOT NULL", []
            return "json_type(attributes, ?) IS NOT NULL", [_path(field)]
        case And(filters):
            return _join(" AND ", filters, indexed)
        case Or(filters):
            return _join(" OR ", filters, indexed)
        case Not(part):
            sql, parameters = where(part, indexed)
            return f"coalesce(NOT ({sql}), TRUE)", parameters
    return _some_element(condition.field, _tests(condition), indexed)


def _tests(condition: Equals | In | Prefix | Range) -> list[_Test]:
    """The tests of which a value must pass one."""
    match condition:
        case Equals(_, value):
            return _equals_any([value])
        case In(_, values):
            return _equals_any(values)
        case Prefix(_, text):
            return [_starts_with(text)]
        case Range():
            return [_within(condition)]


def expired_where(expired: Expired, indexed: Sequence[str] = ()) -> tuple[str, Parameters]:
    """Returns SQL that is true for the rows that have expired by an attribute, and for few others.

    Args:
        expired: The attribute and the time.
        indexed: As in `where`.
    """
    type, value, paths = column_of(expired.ttl.attribute, indexed)
    path = paths[:1]
    text = f"{type} = 'text' AND {value} <= ? AND ({value} GLOB ? OR {value} GLOB ?)"
    sql = f"({type} IN ('integer', 'real') AND {value} <= ?) OR ({text})"
    seconds, now = expired.now_ms / 1000, text_of(time_of(expired.now_ms))
    return sql, [*path, *path, seconds, *path, *path, now, *path, _DATE, *path, f"{_DATE}T*Z"]


def _path(field: str) -> str:
    return "$" + "".join(f'."{name}"' for name in field.split("."))


def _some_element(field: str, tests: Sequence[_Test], indexed: Sequence[str]) -> tuple[str, Parameters]:
    """Returns SQL that is true if the field's value, or any element of a value that is an array, passes a test."""
    if field == KEY:
        return _key(tests)
    path = _path(field)
    values = [value for test in tests for value in test.parameters]
    some = " OR ".join(test.sql("e.type", "e.value") for test in tests)
    element = f"EXISTS (SELECT 1 FROM json_each(attributes, ?) AS e WHERE {some})"
    if field in indexed:
        type, value = f"type_{indexed.index(field)}", f"value_{indexed.index(field)}"
        scalar = " OR ".join(test.sql(type, value) for test in tests)
        return f"({scalar} OR ({type} = 'array' AND {element}))", [*values, path, *values]
    # Parsing JSON is slow: a precondition rules out most rows, and only the rest are parsed for the type.
    first, bound = _precondition(tests, path)
    cases: list[str] = []
    parameters: Parameters = [*bound, path]
    for test in tests:
        condition = test.condition.format(value="json_extract(attributes, ?)")
        paths = [path] * test.condition.count("{value}")
        for name in test.types:
            cases.append(f"WHEN '{name}' THEN {condition}")
            parameters += _interleaved(test.condition, paths, test.parameters)
    sql = f"({first}CASE json_type(attributes, ?) {' '.join(cases)} WHEN 'array' THEN {element} ELSE FALSE END)"
    return sql, [*parameters, path, *values]


def _key(tests: Sequence[_Test]) -> tuple[str, Parameters]:
    """Returns SQL that is true if the record's key, which is a text, passes a test."""
    texts = [test for test in tests if test.types == _TEXT]
    some = " OR ".join(f"({test.condition.format(value='key')})" for test in texts)
    return f"({some or 'FALSE'})", [value for test in texts for value in test.parameters]


def _interleaved(condition: str, paths: Sequence[str], values: Parameters) -> Parameters:
    """The parameters of a condition in the order of its SQL: a path for each {value}, a value for each ?."""
    sources = {"{value}": iter(paths), "?": iter(values)}
    return [next(sources[token]) for token in re.findall(r"\{value\}|\?", condition)]


def _precondition(tests: Sequence[_Test], path: str) -> tuple[str, Parameters]:
    """Returns SQL, to precede the tests, that is true for each row that can pass, and false for most others."""
    if all(test.bounds for test in tests):
        (test,) = tests
        limits: list[str] = []
        parameters: Parameters = []
        for operator, bound in zip(test.bounds, test.parameters, strict=True):
            assert not isinstance(bound, str)
            # An array's value is a text. SQLite orders each text after all numbers, infinity included.
            if operator in _UPPER:
                limits.append("json_extract(attributes, ?) NOT BETWEEN ? AND 9e999 AND ")
                parameters += [path, bound if operator == "<" else math.nextafter(bound, math.inf)]
            else:
                limits.append(f"json_extract(attributes, ?) {operator} ? AND ")
                parameters += [path, bound]
        return "".join(limits), parameters
    # All attributes are encoded in the same way, so the text of those that have a value contains the value's text.
    written: list[str] = []
    for test in tests:
        if test.written is None:
            return "", []
        written += test.written
    if len(written) > _FEW_VALUES:
        return "", []
    contains = " OR ".join(["instr(attributes, ?) > 0"] * len(written))
    return f"({contains}) AND ", list(written)


def _written(values: Iterable[str | int | float]) -> tuple[str, ...] | None:
    """For each value, the text that all attributes with this value contain; None if one has no such text."""
    texts = []
    for value in values:
        if not isinstance(value, str) and value == int(value):
            if abs(value) >= _MAX_IN_DIGITS:
                return None
            texts.append(str(abs(int(value))))
        else:
            texts.append(encode_attributes(value))
    return tuple(texts)


def _equals_any(values: Iterable[Scalar]) -> list[_Test]:
    texts: Parameters = []
    numbers: Parameters = []
    tests: list[_Test] = []
    for value in values:
        if value is None or isinstance(value, bool):
            name = encode_attributes(value)
            test = _Test((name,), "TRUE", [], written=(name,))
            if test not in tests:
                tests.append(test)
        elif isinstance(value, str):
            texts.append(value)
        else:
            numbers.append(value)
    return tests + [_one_of(types, some) for types, some in ((_TEXT, texts), (_NUMBERS, numbers)) if some]


def _one_of(types: tuple[str, ...], values: Parameters) -> _Test:
    if len(values) <= _FEW_VALUES:
        return _Test(types, f"{{value}} IN ({_marks(values)})", values, written=_written(values))
    # SQLite's JSON functions end a text at NUL, and no attribute has one.
    kept = [value for value in values if not (isinstance(value, str) and "\0" in value)]
    return _Test(types, "{value} IN (SELECT value FROM json_each(?))", [encode_attributes(kept)])


def _starts_with(prefix: str) -> _Test:
    # All texts with this prefix, in the order of their code points, which an index can look up.
    written = (encode_attributes(prefix).removesuffix('"'),)
    end = _after(prefix)
    if end is None:
        return _Test(_TEXT, "{value} >= ?", [prefix], written=written)
    return _Test(_TEXT, "{value} >= ? AND {value} < ?", [prefix, end], written=written)


def _after(prefix: str) -> str | None:
    """The first text after all those with this prefix; None if there is none."""
    kept = prefix.rstrip(_LAST)
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(_AFTER_SURROGATES if following == _FIRST_SURROGATE else following)


def _within(condition: Range) -> _Test:
    given = condition.bounds
    test = " AND ".join(f"{{value}} {_COMPARISONS[name]} ?" for name in given)
    if any(isinstance(bound, str) for bound in given.values()):
        return _Test(_TEXT, test, list(given.values()))
    return _Test(_NUMBERS, test, list(given.values()), tuple(_COMPARISONS[name] for name in given))


def _marks(values: Parameters) -> str:
    return ", ".join("?" * len(values))


def _join(word: str, filters: Iterable[Filter], indexed: Sequence[str]) -> tuple[str, Parameters]:
    parts = [where(part, indexed) for part in filters]
    return "(" + word.join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]
