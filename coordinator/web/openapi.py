"""Owns the OpenAPI document, generated from the route table and the protobuf descriptors."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from coordinator.web import routes
from coordinator.web.bodies import FORM_JSON
from coordinator.web.gateway import MAX_TIMEOUT_MS, SERVICE
from coordinator.web.limits import COLLECTION, KEY, field_limits
from coordinator.web.responses import ERROR_STATUSES
from coordinator.web.routes import Call, PlainRoute
from coordinator.web.schemas import Schema, add_schemas, field_schema, reference, status_schemas
from lookalike.model.query import MAX_EXAMPLES
from lookalike.server.config import LimitsConfig
from lookalike.transport.requests import ID_PATTERN
from lookalike.transport.rpc import MAX_MESSAGE_BYTES

_DESCRIPTION = (
    "Image similarity search. Bodies use protobuf's JSON mapping: names in camelCase (snake_case is accepted as"
    " well), bytes in base64, 64-bit integers as strings. A body has at most"
    f" {MAX_MESSAGE_BYTES // 2**20} MiB. If the config sets security.keys, every path under /v1"
    " requires `Authorization: Bearer KEY`."
)
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string", **COLLECTION},
    "description": "Name of the collection",
}
_KEY = {"name": "key", "in": "query", "required": True, "schema": {"type": "string", **KEY}}
_HEADERS = [
    {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Returned in the response and included in the logs of the request. If it is missing or does"
        f" not match ^{ID_PATTERN}$, the server uses and returns an id of its own.",
        "schema": {"type": "string"},
    },
    {
        "name": "X-Timeout-Ms",
        "in": "header",
        "description": "Timeout of the request in milliseconds; by default the server's own limit",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    },
]
_ERROR: Schema = {
    "type": "object",
    "additionalProperties": False,
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "additionalProperties": False,
            "required": ["code", "status", "message", "requestId"],
            "properties": {
                "code": {"type": "string", "description": "The error's class, such as InvalidRequest"},
                "status": {"type": "string", "description": "The gRPC status, such as INVALID_ARGUMENT"},
                "message": {"type": "string", "description": "What is wrong and how to fix it"},
                "requestId": {"type": "string"},
                "retryAfterMs": {"type": "integer", "description": "Time to wait before a retry, in milliseconds"},
            },
        }
    },
}


def document(limits: LimitsConfig) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document of a server with these limits."""
    schemas = {**status_schemas(), "Error": _ERROR}
    of_fields = field_limits(limits)
    paths: dict[str, dict[str, Any]] = {}
    for call in routes.CALLS:
        method = SERVICE.methods_by_name[call.rpc]
        add_schemas(method.output_type, schemas, of_fields)
        if call.takes_body:
            add_schemas(method.input_type, schemas, of_fields)
            # The path sets it.
            schemas[method.input_type.name]["properties"].pop(call.in_path, None)
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, of_fields, limits.max_image_bytes)
    for other, answer in _plain_operations():
        paths.setdefault(other.path, {})[other.method.lower()] = answer
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lookalike", "version": version("lookalike"), "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {"Error": {"description": "Error", "content": _json(_reference("Error"))}},
        },
    }


def _operation(call: Call, limits: Mapping[str, Schema], max_image_bytes: int) -> dict[str, Any]:
    method = SERVICE.methods_by_name[call.rpc]
    fields = method.input_type.fields_by_name
    query = [
        {"name": name, "in": "query", "required": name == "key", "schema": field_schema(fields[field], limits)}
        for name, field in call.query.items()
    ]
    path = [_NAME] if call.in_path else []
    operation = _operation_object(
        call, [*path, *query, *_HEADERS], _json(reference(method.output_type)), call.status
    )
    if call.takes_body:
        content = _json(reference(method.input_type))
        if call.takes_image:
            content |= _form(field_schema(fields["options"], limits), max_image_bytes)
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _plain_operations() -> list[tuple[PlainRoute, dict[str, Any]]]:
    image: dict[str, Schema] = {f"image/{kind}": {} for kind in ("jpeg", "png", "webp")}
    return [
        (routes.HEALTH, _operation_object(routes.HEALTH, [], {"text/plain": {"schema": {"const": "ok\n"}}})),
        (routes.STATUS, _operation_object(routes.STATUS, _HEADERS, _json(_reference("ClusterStatus")))),
        (routes.THUMBNAIL, _operation_object(routes.THUMBNAIL, [_NAME, _KEY, *_HEADERS], image)),
        (routes.OPENAPI, _operation_object(routes.OPENAPI, [], _json({"type": "object"}))),
    ]


def _operation_object(
    route: Call | PlainRoute, parameters: list[dict[str, Any]], content: dict[str, Any], status: int = 200
) -> dict[str, Any]:
    errors = {str(code): {"$ref": "#/components/responses/Error"} for code in ERROR_STATUSES}
    return {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": parameters,
        "responses": {str(status): {"description": "Success", "content": content}, **errors},
    }


def _form(options: Schema, max_image_bytes: int) -> dict[str, Any]:
    media_type = "application/octet-stream"
    image = {"type": "string", "contentMediaType": media_type, "minLength": 1, "maxLength": max_image_bytes}
    several = {"type": "array", "items": _reference("Example")}
    examples = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "like": {**several, "maxItems": MAX_EXAMPLES - 1},
            "notLike": {**several, "maxItems": MAX_EXAMPLES},
        },
        "description": "Further examples; the image is the first of `like`",
    }
    properties = {"image": image, "options": options, "box": _reference("Box"), "examples": examples}
    schema = {"type": "object", "additionalProperties": False, "required": ["image"], "properties": properties}
    encoding = {name: {"contentType": "application/json"} for name in FORM_JSON}
    return {"multipart/form-data": {"schema": schema, "encoding": encoding}}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
