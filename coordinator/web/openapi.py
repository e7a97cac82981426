"""Owns the OpenAPI document, generated from the route table and the protobuf descriptors."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from coordinator.web import routes
from coordinator.web.bodies import FORM_JSON
from coordinator.web.gateway import MAX_TIMEOUT_MS, SERVICE
from coordinator.web.responses import ERROR_STATUSES
from coordinator.web.routes import Call, PlainRoute
from coordinator.web.schemas import Schema, add_schemas, field_schema, reference, status_schemas

_DESCRIPTION = (
    "Image similarity search. Bodies use protobuf's JSON mapping: names in camelCase (snake_case is accepted as"
    " well), bytes in base64, 64-bit integers as strings. If the config sets security.keys, every path under /v1"
    " requires `Authorization: Bearer KEY`."
)
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Name of the collection",
}
_KEY = {"name": "key", "in": "query", "required": True, "schema": {"type": "string"}}
_HEADERS = [
    {
        "name": "X-Request-Id",
        "in": "header",
        "description": "Returned in the response and included in the logs of the request; generated if missing",
        "schema": {"type": "string", "maxLength": 64, "pattern": "^[!-~]+$"},
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


def document() -> dict[str, Any]:
    """Returns the OpenAPI 3.1 document."""
    status, schemas = status_schemas()
    schemas |= {"ClusterStatus": status, "Error": _ERROR}
    paths: dict[str, dict[str, Any]] = {}
    for call in routes.CALLS:
        method = SERVICE.methods_by_name[call.rpc]
        for message in (method.input_type, method.output_type):
            add_schemas(message, schemas)
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
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


def _operation(call: Call) -> dict[str, Any]:
    method = SERVICE.methods_by_name[call.rpc]
    fields = method.input_type.fields_by_name
    query = [
        {"name": name, "in": "query", "required": name == "key", "schema": field_schema(fields[field])}
        for name, field in call.query.items()
    ]
    path = [_NAME] if call.in_path else []
    operation = _operation_object(
        call, [*path, *query, *_HEADERS], _json(reference(method.output_type)), call.status
    )
    if call.takes_body:
        content = _json(reference(method.input_type))
        if call.takes_image:
            content |= _form()
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


def _form() -> dict[str, Any]:
    image: Schema = {"type": "string", "contentMediaType": "application/octet-stream"}
    properties = {"image": image, **{name: _reference(message) for name, message in FORM_JSON.items()}}
    properties["examples"]["description"] = "Further examples; the image is the first of `like`"
    schema = {"type": "object", "required": ["image"], "properties": properties}
    encoding = {name: {"contentType": "application/json"} for name in FORM_JSON}
    return {"multipart/form-data": {"schema": schema, "encoding": encoding}}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
