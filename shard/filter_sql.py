"""Owns the translation of a filter into SQL over the `attributes` column. Names and values from a filter are
always bound as parameters; the SQL text consists of this file's own literals only."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence

from lookalike.model.filters import And, Equals, Exists, Filter, In, Not, Or, Range, Scalar
from lookalike.model.records import encode_attributes
from lookalike.model.ttl import Expired, second_text

Parameters = list[str | int | float]
_FEW_VALUES = 8
# A whole number below this is written in digits, and so is the same number as a float ("7" and "7.0").
_MAX_IN_DIGITS = 10**15
_TEXT = ("text",)
_NUMBERS = ("integer", "real")
_UPPER = ("<", "<=")
_DATE = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9]*"


@dataclasses.dataclass(frozen=True, slots=True)
class _Test:
    """A condition on a JSON value.

    Attributes:
        types: The types of the value for which the condition may hold, as json_type returns them.
        condition: SQL, with {value} in place of the value.
        parameters: The parameters of the condition.
        bounds: The comparisons of a range, one for each parameter.
    """

    types: tuple[str, ...]
    condition: str
    parameters: Parameters
    bounds: tuple[str, ...] = ()

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
        case Equals(field, value):
            return _some_element(field, _equals_any([value]), indexed)
        case In(field, values):
            return _some_element(field, _equals_any(values), indexed)
        case Range():
            return _some_element(condition.field, _within(condition), indexed)
        case Exists(field):
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


def expired_where(expired: Expired, indexed: Sequence[str] = ()) -> tuple[str, Parameters]:
    """Returns SQL that is true for the rows that have expired by an attribute, and for few others.

    Args:
        expired: The attribute and the time.
        indexed: As in `where`.
    """
    type, value, paths = column_of(expired.ttl.attribute, indexed)
    path = paths[:1]
    sql = (
        f"({type} IN ('integer', 'real') AND {value} <= ?) OR ({type} = 'text' AND {value} < ? AND {value} GLOB ?)"
    )
    seconds, text = expired.now_ms / 1000, second_text(expired.now_ms)
    return sql, [*path, *path, seconds, *path, *path, text, *path, _DATE]


def _path(field: str) -> str:
    return "$" + "".join(f'."{name}"' for name in field.split("."))


def _some_element(field: str, tests: Sequence[_Test], indexed: Sequence[str]) -> tuple[str, Parameters]:
    """Returns SQL that is true if the field's value, or any element of a value that is an array, passes a test."""
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
    written = [_written(value) for test in tests for value in test.parameters]
    if len(written) > _FEW_VALUES or None in written or not all(test.parameters for test in tests):
        return "", []
    contains = " OR ".join(["instr(attributes, ?) > 0"] * len(written))
    return f"({contains}) AND ", [text for text in written if text is not None]


def _written(value: str | int | float) -> str | None:
    """The text that all attributes with this value contain; None if there is no such text."""
    if isinstance(value, str):
        return encode_attributes(value)
    if value == int(value):
        return str(abs(int(value))) if abs(value) < _MAX_IN_DIGITS else None
    return encode_attributes(value)


def _equals_any(values: Iterable[Scalar]) -> list[_Test]:
    texts: Parameters = []
    numbers: Parameters = []
    tests: list[_Test] = []
    for value in values:
        if isinstance(value, bool):
            test = _Test(("true",) if value else ("false",), "TRUE", [])
            if test not in tests:
                tests.append(test)
        elif isinstance(value, str):
            texts.append(value)
        else:
            numbers.append(value)
    if texts:
        tests.append(_Test(_TEXT, f"{{value}} IN ({_marks(texts)})", texts))
    if numbers:
        tests.append(_Test(_NUMBERS, f"{{value}} IN ({_marks(numbers)})", numbers))
    return tests


def _within(condition: Range) -> list[_Test]:
    bounds = [
        (">", condition.gt),
        (">=", condition.gte),
        ("<", condition.lt),
        ("<=", condition.lte),
    ]
    given = [(operator, bound) for operator, bound in bounds if bound is not None]
    test = " AND ".join(f"{{value}} {operator} ?" for operator, _ in given)
    operators = tuple(operator for operator, _ in given)
    return [_Test(_NUMBERS, test, [bound for _, bound in given], operators)]


def _marks(values: Parameters) -> str:
    return ", ".join("?" * len(values))


def _join(word: str, filters: Iterable[Filter], indexed: Sequence[str]) -> tuple[str, Parameters]:
    parts = [where(part, indexed) for part in filters]
    return "(" + word.join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]
