"""Owns the JSON schemas of the filters' own language (docs/FILTERS.md), which no protobuf message describes, and
what the schemas of the protobuf form of filters say beyond the fields of its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lookalike.model.filters import MAX_CONDITIONS, MAX_VALUES

Schema = dict[str, Any]

EXPRESSION = "FilterExpression"
_CONDITION = "FilterCondition"
_VALUE = "FilterValue"


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_DATE: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["$date"],
    "properties": {"$date": {"type": "string", "examples": ["2026-05-01T08:30:00Z", "2026-05-01"]}},
}
_BOUND: Schema = {"anyOf": [{"type": ["string", "number"]}, _DATE]}
_VALUES: Schema = {"type": "array", "items": _reference(_VALUE), "minItems": 1, "maxItems": MAX_VALUES}
_FILTERS: Schema = {
    "type": "array", "items": _reference(EXPRESSION), "minItems": 1, "maxItems": MAX_CONDITIONS,
}  # fmt: skip
SCHEMAS: Mapping[str, Schema] = {
    EXPRESSION: {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {"$and": _FILTERS, "$or": _FILTERS, "$not": _reference(EXPRESSION)},
        "patternProperties": {r"^(?:[^$]|\$key$)": _reference(_CONDITION)},
        "description": (
            "Conditions by attribute, and on the record's key by $key. All must hold. $and, $or and $not combine"
            " filters. docs/FILTERS.md defines each operator."
        ),
        "examples": [{"label": {"$in": ["cat", "lynx"]}, "year": {"$gte": 2000}}, {"$not": {"deleted": True}}],
    },
    _CONDITION: {
        "anyOf": [
            _reference(_VALUE),
            {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": False,
                "properties": {
                    "$eq": _reference(_VALUE),
                    "$ne": _reference(_VALUE),
                    "$in": _VALUES,
                    "$nin": _VALUES,
                    **dict.fromkeys(("$gt", "$gte", "$lt", "$lte"), _BOUND),
                    "$prefix": {"type": "string"},
                    "$exists": {"type": "boolean"},
                },
            },
        ],
        "description": "A value that the attribute equals, or operators that must all hold.",
    },
    _VALUE: {
        "anyOf": [{"type": ["string", "number", "boolean", "null"]}, _DATE],
        "description": "A JSON scalar, or a date or time.",
    },
}
# What the schemas of messages say beyond their fields, by the message's name.
RULES: Mapping[str, Schema] = {
    "In": {"anyOf": [{"required": [name]} for name in ("values", "texts", "integers")]},
}
