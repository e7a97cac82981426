"""Owns the translation of a filter into SQL over the `attributes` column. Names and values from a filter are
always bound as parameters; the SQL text consists of this file's own literals only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lookalike.model.filters import And, Equals, Exists, Filter, In, Not, Or, Range, Scalar

Parameters = list[str | int | float]
# SQL conditions on an element's {type} and {value}, each with its parameters. One of them must hold.
Tests = list[tuple[str, Parameters]]
_NUMBER = "{type} IN ('integer', 'real')"


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


def _path(field: str) -> str:
    return "$" + "".join(f'."{name}"' for name in field.split("."))


def _some_element(field: str, tests: Tests, indexed: Sequence[str]) -> tuple[str, Parameters]:
    """Returns SQL that is true if the field's value, or any element of a value that is an array, passes a test.
    json_each returns a scalar as one element. It would also iterate over an object, so objects are excluded."""
    path = _path(field)
    element = " OR ".join(test.format(type="e.type", value="e.value") for test, _ in tests)
    values = [value for _, values in tests for value in values]
    some = f"EXISTS (SELECT 1 FROM json_each(attributes, ?) AS e WHERE {element})"
    if field not in indexed:
        return f"(coalesce(json_type(attributes, ?), 'object') <> 'object' AND {some})", [path, path, *values]
    columns = {"type": f"type_{indexed.index(field)}", "value": f"value_{indexed.index(field)}"}
    scalar = " OR ".join(test.format(**columns) for test, _ in tests)
    return f"({scalar} OR ({columns['type']} = 'array' AND {some}))", [*values, path, *values]


def _equals_any(values: Iterable[Scalar]) -> Tests:
    texts: Parameters = []
    numbers: Parameters = []
    tests: Tests = []
    for value in values:
        if isinstance(value, bool):
            test: tuple[str, Parameters] = ("{type} = 'true'" if value else "{type} = 'false'", [])
            if test not in tests:
                tests.append(test)
        elif isinstance(value, str):
            texts.append(value)
        else:
            numbers.append(value)
    if texts:
        tests.append((f"({{type}} = 'text' AND {{value}} IN ({_marks(texts)}))", texts))
    if numbers:
        tests.append((f"({_NUMBER} AND {{value}} IN ({_marks(numbers)}))", numbers))
    return tests


def _within(condition: Range) -> Tests:
    bounds = [
        (">", condition.gt),
        (">=", condition.gte),
        ("<", condition.lt),
        ("<=", condition.lte),
    ]
    given = [(operator, bound) for operator, bound in bounds if bound is not None]
    test = " AND ".join([_NUMBER, *(f"{{value}} {operator} ?" for operator, _ in given)])
    return [(f"({test})", [bound for _, bound in given])]


def _marks(values: Parameters) -> str:
    return ", ".join("?" * len(values))


def _join(word: str, filters: Iterable[Filter], indexed: Sequence[str]) -> tuple[str, Parameters]:
    parts = [where(part, indexed) for part in filters]
    return "(" + word.join(sql for sql, _ in parts) + ")", [value for _, values in parts for value in values]
