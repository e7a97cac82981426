"""Owns what HTTP answers have in common: the request's id, safe headers, errors as JSON with the status that
belongs to their class, and that what a client has is not sent again."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from coordinator.web.gateway import REQUEST_ID_HEADER, request_id_of
from lookalike.model.errors import Internal, InvalidRequest, LookalikeError, NotFound, name_of

log = logging.getLogger("lookalike.web")
REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)

_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    # The request is sound but does not go with what the collection is; 412 is for conditional headers.
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
ERROR_STATUSES = (*sorted({*_HTTP_STATUS.values()} - {499}), 405, 413, 415)
_SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "lookalike",
    "X-Content-Type-Options": "nosniff",
}


class TooLarge(InvalidRequest):
    """The body is over a limit."""


class WrongMediaType(InvalidRequest):
    """The body is of a kind that the path does not take."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def with_id_and_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Names the request, and turns what its handler raises into an answer."""
    request_id = request[REQUEST_ID] = request_id_of(request.headers)
    try:
        response = await handler(request)
    except LookalikeError as error:
        response = error_response(error, request_id)
    except web.HTTPException as raised:
        response = _refused(request, raised, request_id)
    except Exception:
        log.exception("request %s failed: %s %s", request_id, request.method, request.path)
        response = error_response(Internal(f"internal error; quote request id {request_id}"), request_id)
    return made_safe(response, request_id)


def made_safe(response: web.StreamResponse, request_id: str) -> web.StreamResponse:
    """The answer with the headers that each one bears."""
    response.headers[REQUEST_ID_HEADER] = request_id
    for name, value in _SAFE_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def json_response(document: str, status: int = 200) -> web.Response:
    return web.Response(
        text=document, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def etag_of(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def unless_known(
    request: web.Request,
    body: bytes,
    etag: str,
    content_type: str,
    headers: Mapping[str, str],
    charset: str | None = None,
) -> web.Response:
    """The body and its ETag; the ETag alone, with status 304, if the client says that it has that body."""
    headers = {**headers, "ETag": f'"{etag}"'}
    if any(tag.value == etag for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=content_type, charset=charset, headers=headers)


def error_response(error: LookalikeError, request_id: str) -> web.Response:
    """The error's class, gRPC status, text and request id; how long to wait, where waiting helps."""
    body: dict[str, Any] = {
        "code": name_of(error),
        "status": error.status,
        "message": error.message,
        "requestId": error.request_id or request_id,
    }
    if error.retry_after_ms is not None:
        body["retryAfterMs"] = error.retry_after_ms
    status = _status_of(error)
    response = json_response(json.dumps({"error": body}, ensure_ascii=False), status)
    if status in (429, 503):
        response.headers["Retry-After"] = str(max(1, math.ceil((error.retry_after_ms or 0) / 1_000)))
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _status_of(error: LookalikeError) -> int:
    if isinstance(error, TooLarge):
        return 413
    if isinstance(error, WrongMediaType):
        return 415
    return _HTTP_STATUS.get(error.status, 500)


def _refused(request: web.Request, raised: web.HTTPException, request_id: str) -> web.Response:
    """What the HTTP server itself refuses, in the same form."""
    error: LookalikeError
    if raised.status == 404:
        error = NotFound(f"path: {request.path[:200]!r} is not served; /openapi.json lists what is")
    elif isinstance(raised, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(raised.allowed_methods))
        error = InvalidRequest(f"method: {request.method} does not go with this path; use {allowed}")
    else:
        error = InvalidRequest(f"request: {raised.reason}; see /openapi.json")
    response = error_response(error, request_id)
    response.set_status(raised.status)
    if "Allow" in raised.headers:
        response.headers["Allow"] = raised.headers["Allow"]
    return response
