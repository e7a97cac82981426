"""Owns the JSON schemas of the web API: the schemas of the protobuf messages in their JSON mapping, with the
comments of the .proto files as descriptions and the limits of `limits`, and the schema of the cluster status.

Client generators name a class after a schema's title or, without one, its name: both must be unique."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import TypeAdapter

from coordinator.web import filter_schema
from lookalike.model.status import ClusterStatus
from lookalike.v1 import filter_pb2

Schema = dict[str, Any]
_COMMENTS: dict[str, str] = json.loads((resources.files("lookalike.v1") / "comments.json").read_text("utf-8"))
_REF = "#/components/schemas/{model}"
_PACKAGE = "lookalike.v1."
# In the standard or the URL-safe alphabet, with or without padding.
_BASE64 = "^(?:[A-Za-z0-9+/_-]{4})*(?:[A-Za-z0-9+/_-]{2}(?:==)?|[A-Za-z0-9+/_-]{3}=?)?$"
_STATUS = "ClusterStatus"
_LONG_TYPES = {
    FieldDescriptor.TYPE_INT64: ("int64", r"^-?[0-9]+$"),
    FieldDescriptor.TYPE_UINT64: ("uint64", r"^[0-9]+$"),
    FieldDescriptor.TYPE_FIXED64: ("uint64", r"^[0-9]+$"),
}
_PLAIN_TYPES: dict[int, Schema] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64", "pattern": _BASE64},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
}


_FILTER = filter_pb2.Filter.DESCRIPTOR
_FILTER_MESSAGES = (_FILTER, filter_pb2.Filters.DESCRIPTOR)


def reference(message: Descriptor) -> Schema:
    """A reference to a message's schema among the components of the OpenAPI document."""
    return {"$ref": _REF.format(model=_name(message))}


def add_schemas(message: Descriptor, found: dict[str, Schema], limits: Mapping[str, Schema]) -> None:
    """Adds the schemas of the message and of all messages in it to `found`. limits: see `field_limits`."""
    if _name(message) in found:
        return
    if message is _FILTER:
        found |= filter_schema.SCHEMAS
    found[_name(message)] = schema = {
        "type": "object",
        "additionalProperties": False,
        "properties": {field.json_name: field_schema(field, limits) for field in message.fields},
    }
    if required := [field.json_name for field in message.fields if _limits(field, limits).get("required")]:
        schema["required"] = required
    schema |= _exclusions(message) | filter_schema.RULES.get(_name(message), {})
    if description := f"{_COMMENTS.get(message.full_name, '')} {_oneofs(message)}".strip():
        schema["description"] = description
    for field in message.fields:
        if field.message_type is not None:
            add_schemas(field.message_type, found, limits)


def field_schema(field: FieldDescriptor, limits: Mapping[str, Schema]) -> Schema:
    one = _value_schema(field)
    own = {name: limit for name, limit in _limits(field, limits).items() if name != "required"}
    one |= own.pop("items", {})
    schema = {"type": "array", "items": one} if field.is_repeated else one
    schema |= own
    comment = _COMMENTS.get(field.full_name)
    return {**schema, "description": comment} if comment else schema


def status_schemas() -> dict[str, Schema]:
    """The schema ClusterStatus, and the schemas that it refers to."""
    schema = TypeAdapter(ClusterStatus).json_schema(
        ref_template=_REF.replace("{model}", _status_name("{model}")), mode="serialization"
    )
    schemas = {_STATUS: schema, **{_status_name(name): part for name, part in schema.pop("$defs").items()}}
    return {name: _retitled(name, part) for name, part in schemas.items()}


def _status_name(name: str) -> str:
    """The name for a part of the status: messages have the same names, but other fields."""
    return f"{_STATUS}{name}"


def _retitled(name: str, schema: Schema) -> Schema:
    """The schema with its name as the only title: Pydantic also gives each property one."""
    properties = {
        field: {key: value for key, value in part.items() if key != "title"}
        for field, part in schema["properties"].items()
    }
    return {**schema, "title": name, "properties": properties}


def _exclusions(message: Descriptor) -> Schema:
    """The rule that at most one field of each oneof is set, in a form that client generators ignore: with `oneOf`,
    they would make a class of each field."""
    groups = [[field.json_name for field in group.fields] for group in message.oneofs if len(group.fields) > 1]
    if any(len(group) == len(message.fields) for group in groups):
        return {"minProperties": 1, "maxProperties": 1}
    pairs = [{"required": list(pair)} for group in groups for pair in itertools.combinations(group, 2)]
    return {"not": {"anyOf": pairs}} if pairs else {}


def _limits(field: FieldDescriptor, limits: Mapping[str, Schema]) -> Schema:
    return limits.get(field.full_name.removeprefix(_PACKAGE), {})


def _value_schema(field: FieldDescriptor) -> Schema:
    if field.message_type is _FILTER and field.containing_type not in _FILTER_MESSAGES:
        return {"anyOf": [{"$ref": _REF.format(model=filter_schema.EXPRESSION)}, reference(_FILTER)]}
    if field.message_type is not None:
        return reference(field.message_type)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    if field.type in _LONG_TYPES:
        # JSON numbers are exact up to 53 bits only, so 64-bit integers are strings.
        name, pattern = _LONG_TYPES[field.type]
        return {"type": "string", "format": name, "pattern": pattern}
    return dict(_PLAIN_TYPES[field.type])


def _oneofs(message: Descriptor) -> str:
    """A description of the message's oneofs: fields that exclude each other."""
    groups = [[field.json_name for field in group.fields] for group in message.oneofs if len(group.fields) > 1]
    return " ".join(f"At most one of {', '.join(group)}." for group in groups)


def _name(message: Descriptor) -> str:
    return message.full_name.removeprefix(_PACKAGE)
