"""Owns what all HTTP responses share: request ids, security headers, errors as JSON with the HTTP status of their
class, and conditional responses."""

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
    # The request is valid but does not match the collection; 412 is for conditional headers.
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
ERROR_STATUSES = (*sorted({*_HTTP_STATUS.values()} - {499}), 405, 413, 415)
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "lookalike",
    "X-Content-Type-Options": "nosniff",
}


class TooLarge(InvalidRequest):
    """The body exceeds a limit."""


class UnsupportedMediaType(InvalidRequest):
    """The path does not accept the body's media type."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def handle_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Assigns a request id, and converts exceptions of the handler to error responses."""
    request_id = request[REQUEST_ID] = request_id_of(request.headers)
    try:
        response = await handler(request)
    except LookalikeError as error:
        response = error_response(error, request_id)
    except web.HTTPException as http_error:
        response = _http_error_response(request, http_error, request_id)
    except Exception:
        log.exception("request %s failed: %s %s", request_id, request.method, request.path)
        response = error_response(Internal(f"internal error; quote request id {request_id}"), request_id)
    return with_common_headers(response, request_id)


def with_common_headers(response: web.StreamResponse, request_id: str) -> web.StreamResponse:
    """Adds the request id and the security headers to a response."""
    response.headers[REQUEST_ID_HEADER] = request_id
    for name, value in _SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def json_response(document: str, status: int = 200) -> web.Response:
    return web.Response(
        text=document, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def etag_of(body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=12).hexdigest()


def conditional_response(
    request: web.Request,
    body: bytes,
    etag: str,
    content_type: str,
    headers: Mapping[str, str],
    charset: str | None = None,
) -> web.Response:
    """The body with its ETag, or status 304 without a body if the request's If-None-Match has that ETag."""
    headers = {**headers, "ETag": f'"{etag}"'}
    if any(tag.value == etag for tag in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=content_type, charset=charset, headers=headers)


def error_response(error: LookalikeError, request_id: str) -> web.Response:
    """The error as JSON: class, gRPC status, message, request id, and the time before a retry, if known."""
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
    if isinstance(error, UnsupportedMediaType):
        return 415
    return _HTTP_STATUS.get(error.status, 500)


def _http_error_response(request: web.Request, http_error: web.HTTPException, request_id: str) -> web.Response:
    """Converts an error that aiohttp itself raised to a response like those of `error_response`."""
    error: LookalikeError
    if http_error.status == 404:
        error = NotFound(f"path: {request.path[:200]!r} does not exist; /openapi.json lists all paths")
    elif isinstance(http_error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(http_error.allowed_methods))
        error = InvalidRequest(f"method: {request.method} is not allowed on this path; use {allowed}")
    else:
        error = InvalidRequest(f"request: {http_error.reason}; see /openapi.json")
    response = error_response(error, request_id)
    response.set_status(http_error.status)
    if "Allow" in http_error.headers:
        response.headers["Allow"] = http_error.headers["Allow"]
    return response
