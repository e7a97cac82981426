"""Owns the translation of a filter into SQL over the `attributes` column. Names and values of a filter
are always bound as parameters; the SQL text is made of this file's own words alone."""

from __future__ import annotations

from collections.abc import Iterable

from lookalike.filters import And, Equals, Exists, Filter, In, Not, Or, Range, Scalar

Parameters = list[str | int | float]
_NUMBER = "e.type IN ('integer', 'real')"


def where(condition: Filter) -> tuple[str, Parameters]:
    """An SQL condition on a record's row, and its parameters in order."""
    match condition:
        case Equals(field, value):
            return _some_element(field, *_equals_any([value]))
        case In(field, values):
            return _some_element(field, *_equals_any(values))
        case Range():
            return _some_element(condition.field, *_within(condition))
        case Exists(field):
            return "json_type(attributes, ?) IS NOT NULL", [_path(field)]
        case And(filters):
            return _join(" AND ", filters)
        case Or(filters):
            return _join(" OR ", filters)
        case Not(part):
            sql, parameters = where(part)
            return f"NOT ({sql})", parameters


def _path(field: str) -> str:
    return "$" + "".join(f'."{name}"' for name in field.split("."))


def _some_element(field: str, test: str, parameters: Parameters) -> tuple[str, Parameters]:
    """True when the field's value, or an element of it if it is an array, passes the test. json_each
    gives a scalar as one element, but would also open an object."""
    path = _path(field)
    sql = (
        "(coalesce(json_type(attributes, ?), 'object') <> 'object'"
        f" AND EXISTS (SELECT 1 FROM json_each(attributes, ?) AS e WHERE {test}))"
    )
    return sql, [path, path, *parameters]


def _equals_any(values: Iterable[Scalar]) -> tuple[str, Parameters]:
    texts: Parameters = []
    numbers: Parameters = []
    tests: list[str] = []
    for value in values:
        if isinstance(value, bool):
            tests.append("e.type = 'true'" if value else "e.type = 'false'")
        elif isinstance(value, str):
            texts.append(value)
        else:
            numbers.append(value)
    if texts:
        tests.append(f"(e.type = 'text' AND e.value IN ({_marks(texts)}))")
    if numbers:
        tests.append(f"({_NUMBER} AND e.value IN ({_marks(numbers)}))")
    return "(" + " OR ".join(dict.fromkeys(tests)) + ")", [*texts, *numbers]


def _within(condition: Range) -> tuple[str, Parameters]:
    bounds = [
        (">", condition.gt),
        (">=", condition.gte),
        ("<", condition.lt),
        ("<=", condition.lte),
    ]
    given = [(operator, bound) for operator, bound in bounds if bound is not None]
    test = " AND ".join([_NUMBER, *(f"e.value {operator} ?" for operator, _ in given)])
    return test, [bound for _, bound in given]


def _marks(values: Parameters) -> str:
    return ", ".join("?" * len(values))


def _join(word: str, filters: Iterable[Filter]) -> tuple[str, Parameters]:
    parts = [where(part) for part in filters]
    return "(" + word.join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]
