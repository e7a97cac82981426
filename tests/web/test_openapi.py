"""The OpenAPI document matches the routes exactly."""

from __future__ import annotations

import json
import re

import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from coordinator.web.openapi import document
from coordinator.web.pages import PAGES, STATIC
from coordinator.web.responses import ERROR_STATUSES, error_response
from coordinator.web.routes import CALLS
from coordinator.web.server import application
from lookalike.model import errors
from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig
from lookalike.v1 import search_pb2
from tests.web.rest import Rest

STREAMS_AND_INTERNALS = {"Ingest", "Backup", "Restore", "Drain"}


def test_the_document_is_valid_and_served(rest: Rest) -> None:
    OpenAPIV31SpecValidator(document()).validate()
    assert rest("GET", "/openapi.json").json == document()


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
        (method.upper(), path) for path, operations in document()["paths"].items() for method in operations
    }
    assert served - {("GET", path) for path in (*PAGES, STATIC)} == described


def test_every_client_rpc_has_a_route() -> None:
    methods = {method.name for method in search_pb2.DESCRIPTOR.services_by_name["SearchService"].methods}
    assert methods - STREAMS_AND_INTERNALS == {call.rpc for call in CALLS} | {"ClusterStatus"}


def test_operation_ids_are_unique() -> None:
    names = [one["operationId"] for operations in document()["paths"].values() for one in operations.values()]
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
