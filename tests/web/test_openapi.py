"""The OpenAPI document matches the routes exactly."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from coordinator.web.limits import field_limits
from coordinator.web.openapi import document
from coordinator.web.pages import PAGES, STATIC
from coordinator.web.responses import ERROR_STATUSES, error_response
from coordinator.web.routes import CALLS
from coordinator.web.server import application
from lookalike.model import errors
from lookalike.model.codespace import MAX_TEXT
from lookalike.model.errors import LookalikeError
from lookalike.model.filters import MAX_CONDITIONS
from lookalike.model.records import MAX_KEY_BYTES
from lookalike.server.config import ClusterConfig, LimitsConfig
from lookalike.v1 import search_pb2
from tests.web.rest import Rest

STREAMS_AND_INTERNALS = {"Ingest", "Backup", "Restore", "Drain"}


def test_the_document_is_valid_and_served(rest: Rest) -> None:
    OpenAPIV31SpecValidator(document(LimitsConfig())).validate()
    assert rest("GET", "/openapi.json").json == document(LimitsConfig())


async def test_document_lists_exactly_the_served_routes() -> None:
    runner = web.AppRunner(application(ClusterConfig(), "unix:/nowhere"))
    await runner.setup()
    served = {
        (route.method, route.resource.canonical)
        for route in runner.app.router.routes()
        if route.resource and route.method != "HEAD"
    }
    await runner.cleanup()
    described = {
        (method.upper(), path)
        for path, operations in document(LimitsConfig())["paths"].items()
        for method in operations
    }
    assert served - {("GET", path) for path in (*PAGES, STATIC)} == described


def test_every_client_rpc_has_a_route() -> None:
    methods = {method.name for method in search_pb2.DESCRIPTOR.services_by_name["SearchService"].methods}
    assert methods - STREAMS_AND_INTERNALS == {call.rpc for call in CALLS} | {"ClusterStatus"}


def test_operation_ids_are_unique() -> None:
    names = [
        one["operationId"]
        for operations in document(LimitsConfig())["paths"].values()
        for one in operations.values()
    ]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][A-Za-z]+", name) for name in names)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidRequest, 400),
        (errors.Unauthenticated, 401),
        (errors.PermissionDenied, 403),
        (errors.NotFound, 404),
        (errors.AlreadyExists, 409),
        (errors.CodeSpaceMismatch, 409),
        (errors.Overloaded, 429),
        (errors.Cancelled, 499),
        (errors.Internal, 500),
        (errors.Corruption, 500),
        (errors.PartitionUnavailable, 503),
        (errors.Recovering, 503),
        (errors.SlotMoved, 503),
        (errors.DeadlineExceeded, 504),
    ],
)
def test_each_error_class_has_its_http_status(kind: type[LookalikeError], status: int) -> None:
    response = error_response(kind("x: invalid; fix it", retry_after_ms=1_200), "id-1")
    assert response.text is not None
    assert response.status == status
    assert status in (*ERROR_STATUSES, 499)
    assert json.loads(response.text) == {
        "error": {
            "code": kind.__name__,
            "status": kind.status,
            "message": "x: invalid; fix it",
            "requestId": "id-1",
            "retryAfterMs": 1_200,
        }
    }
    assert response.headers.get("Retry-After") == ("2" if status in (429, 503) else None)
    assert response.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)


def test_names_of_generated_classes_are_unique() -> None:
    """Client generators drop a schema whose title is the name of another one."""
    schemas = document(LimitsConfig())["components"]["schemas"]
    titled = {name: schema.get("title", name) for name, schema in schemas.items()}
    assert len({re.sub(r"\W", "", title).lower() for title in titled.values()}) == len(schemas)
    assert titled["ClusterStatus"] == "ClusterStatus"


def test_each_stated_limit_is_of_a_field() -> None:
    messages = search_pb2.DESCRIPTOR.pool
    for name in field_limits(LimitsConfig()):
        message, field = name.split(".")
        assert field in messages.FindMessageTypeByName(f"lookalike.v1.{message}").fields_by_name, name


def test_limits_of_the_config_are_stated() -> None:
    schemas = document(LimitsConfig(max_k=7, max_batch=3, max_image_mb=1))["components"]["schemas"]
    assert schemas["SearchOptions"]["properties"]["k"]["maximum"] == 7
    assert schemas["SearchBatchRequest"]["properties"]["queries"]["maxItems"] == 3
    assert schemas["Query"]["properties"]["image"]["maxLength"] == -(-(2**20) // 3) * 4


_CODE = base64.b64encode(bytes(8)).decode()
_FILTERS = [{"exists": {"field": "a"}}] * (MAX_CONDITIONS + 1)
_TOO_LONG = "k" * (MAX_KEY_BYTES + 1)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/collections", {"name": "-x", "bits": 64}),
        ("POST", "/v1/collections", {"name": "x" * 129, "bits": 64}),
        ("POST", "/v1/collections", {"name": "x", "bits": 8}),
        ("POST", "/v1/collections", {"name": "x", "bits": 8_200}),
        ("POST", "/v1/collections", {"name": "x", "bits": 65}),
        ("POST", "/v1/collections", {"bits": 64}),
        ("POST", "/v1/collections", {"name": "x", "codeSpace": {"bits": 64, "layer": "l" * (MAX_TEXT + 1)}}),
        ("POST", "/v1/collections", {"name": "x", "bits": 64, "indexing": {"attributes": ["a"] * 2}}),
        ("POST", "/v1/collections", {"name": "x", "bits": 64, "indexing": {"featureWidth": 65_537}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 0}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 10_001}}),
        ("POST", "/search", {"query": {"code": _CODE}}),
        ("POST", "/search", {"query": {"code": ""}, "options": {"k": 1}}),
        ("POST", "/search", {"query": {"key": _TOO_LONG}, "options": {"k": 1}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 1, "maxDistance": 2**32}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 1, "rerank": "RERANK_ASYMMETRIC",
                                                                     "oversampling": 1_001}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 1, "offset": 10_000}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 1, "groupBy": "a", "groupSize": 10_001}}),
        ("POST", "/search", {"query": {"code": _CODE}, "options": {"k": 1, "excludeKeys": [_TOO_LONG]}}),
        ("POST", "/search:batch", {"queries": [], "options": {"k": 1}}),
        ("POST", "/search:batch", {"queries": [{"key": "a"}] * 1_025, "options": {"k": 1}}),
        ("POST", "/records", {"records": []}),
        ("POST", "/records", {"records": [{"key": "", "code": _CODE}]}),
        ("POST", "/records", {"records": [{"key": _TOO_LONG, "code": _CODE}]}),
        ("POST", "/records", {"records": [{"key": "a", "code": _CODE, "attributes": " " * (2**16 + 1)}]}),
        ("POST", "/records", {"records": [{"key": "a", "code": _CODE}] * 10_001}),
        ("POST", "/records/exists", {"keys": []}),
        ("POST", "/records/exists", {"keys": ["a"] * 10_001}),
        ("POST", "/records/count", {"filter": {"and": {"filters": []}}}),
        ("POST", "/records/count", {"filter": {"and": {"filters": _FILTERS}}}),
        ("POST", "/records/count", {"filter": {"in": {"field": "a", "values": []}}}),
        ("POST", "/records/count", {"filter": {"exists": {"field": ""}}}),
        ("POST", "/records/count", {"filter": {"in": {"field": "a"}}}),
        ("POST", "/records/count", {"filter": {}}),
        ("POST", "/records/count", {"filter": {"": 1}}),
        ("POST", "/records/count", {"filter": {"$id": 1}}),
        ("POST", "/records/count", {"filter": {"a": {}}}),
        ("POST", "/records/count", {"filter": {"a": [1]}}),
        ("POST", "/records/count", {"filter": {"a": {"b": 1}}}),
        ("POST", "/records/count", {"filter": {"a": {"$like": "b"}}}),
        ("POST", "/records/count", {"filter": {"a": {"$gt": None}}}),
        ("POST", "/records/count", {"filter": {"a": {"$in": []}}}),
        ("POST", "/records/count", {"filter": {"a": {"$exists": 1}}}),
        ("POST", "/records/count", {"filter": {"a": {"$date": 1}}}),
        ("POST", "/records/count", {"filter": {"$and": []}}),
        ("POST", "/records/count", {"filter": {"$not": [{"a": 1}]}}),
        ("POST", "/copy", {"target": "-x"}),
        ("POST", "/copy", {"target": "copied", "limit": 10_001}),
        ("POST", "/rename", {"newName": ""}),
        ("POST", "/v1/aliases", {"alias": "-x", "collection": "a"}),
        ("POST", "/v1/aliases", {"alias": "x", "collection": ""}),
        ("POST", "/records/scroll", {"limit": 10_001}),
        ("POST", "/records/facets", {"attribute": "a", "limit": 100_001}),
        ("POST", "/records/facets", {}),
        ("POST", "/records/delete", {}),
        ("POST", "/v1/aliases", {"alias": "a b", "collection": "a"}),
        ("POST", "/v1/aliases", {"alias": "a"}),
        ("PUT", "/v1/aliases/a", {}),
        ("POST", "/rename", {}),
        ("POST", "/copy", {}),
        ("POST", "/copy", {"target": "x", "limit": 10_001}),
        ("PUT", "/ttl", {"ttl": {"attribute": ""}}),
    ],
)  # fmt: skip
def test_the_document_and_the_server_have_the_same_limits(
    rest: Rest, filled: str, method: str, path: str, body: dict[str, Any]
) -> None:
    """A body beyond a limit fits neither the document's schema nor the server's check."""
    here = path if path.startswith("/v1") else f"/v1/collections/{filled}{path}"
    assert not rest.fits(method, here, body)
    answer = rest(method, here, body)
    assert (answer.status, answer.error["code"]) == (400, "InvalidRequest"), answer.body


@pytest.mark.parametrize(
    "condition",
    [
        {},
        {"and": {"filters": []}},
        {"and": {"filters": [{"exists": {"field": "a"}}] * (MAX_CONDITIONS + 1)}},
        {"in": {"field": "a", "values": []}},
        {"exists": {"field": ""}},
        {"equals": {"field": "a"}},
    ],
    ids=range(6),
)
def test_the_document_and_the_server_have_the_same_limits_on_filters(
    rest: Rest, filled: str, condition: dict[str, Any]
) -> None:
    assert not rest.fits_component("Filter", condition)
    answer = rest("POST", f"/v1/collections/{filled}/records/count", {"filter": condition})
    assert (answer.status, answer.error["code"]) == (400, "InvalidRequest"), answer.body
