"""Owns the coordinator's HTTP server and the handlers of its routes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from coordinator.web import routes
from coordinator.web.bodies import LARGE_BYTES, BodyReader
from coordinator.web.connection import Runner
from coordinator.web.gateway import Caller, Gateway, caller_of
from coordinator.web.hosts import needs_host_check, require_loopback_host
from coordinator.web.openapi import document
from coordinator.web.pages import Pages
from coordinator.web.responses import (
    REQUEST_ID,
    Handler,
    conditional_response,
    etag_of,
    handle_errors,
    json_response,
)
from lookalike import wire
from lookalike.model.errors import CannotStart, Internal, InvalidRequest, NotFound
from lookalike.model.thumbnails import format_of
from lookalike.server.config import ClusterConfig
from lookalike.transport.rpc import MAX_MESSAGE_BYTES
from lookalike.v1 import search_pb2 as pb


async def start_web(
    config: ClusterConfig, grpc_address: str, ssl_context: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Serves the REST API and the web pages at the address that the config gives as `coordinator.web`.

    Args:
        grpc_address: The address of this coordinator's own gRPC server.
        ssl_context: Enables TLS.

    Raises:
        CannotStart: If the address cannot be bound.
    """
    listen = config.coordinator.web
    runner = Runner(application(config, grpc_address))
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        shares_port = config.coordinator.processes > 1
        site = web.TCPSite(
            runner, host.strip("[]"), int(port), ssl_context=ssl_context, reuse_port=shares_port or None
        )
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise CannotStart(
            f"coordinator.web: cannot bind {listen} ({error.strerror}); free the port or use another one"
        ) from None
    return runner


def application(config: ClusterConfig, grpc_address: str) -> web.Application:
    """Returns an application with every route in `coordinator.web.routes`, and the web pages."""
    handlers = _Handlers(config, Gateway(grpc_address))
    app = web.Application(
        middlewares=[handle_errors, *([require_loopback_host] if needs_host_check(config) else [])],
        client_max_size=MAX_MESSAGE_BYTES,
    )
    for call in routes.CALLS:
        _add(app, call, handlers.for_rpc(call))
    for other, handler in (
        (routes.HEALTH, handlers.health),
        (routes.STATUS, handlers.status),
        (routes.THUMBNAIL, handlers.thumbnail),
        (routes.OPENAPI, handlers.openapi),
    ):
        _add(app, other, handler)
    Pages().add_to(app)
    app.on_cleanup.append(handlers.close)
    return app


def _add(app: web.Application, route: routes.Call | routes.PlainRoute, handler: Handler) -> None:
    """Adds a route; GET routes answer HEAD as well, for `curl -I` and uptime checks."""
    for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
        app.router.add_route(method, route.path, handler)


class _Handlers:
    def __init__(self, config: ClusterConfig, gateway: Gateway) -> None:
        self._gateway = gateway
        self._bodies = BodyReader(config.limits.max_image_bytes, config.max_request_bytes)
        self._openapi = json.dumps(document(config.limits), ensure_ascii=False, indent=1)

    def for_rpc(self, call: routes.Call) -> Handler:
        """Returns the handler of an RPC's route."""

        async def handle(request: web.Request) -> web.StreamResponse:
            caller = _caller(request)
            message = await self._bodies.message(call, request)
            answer = await self._gateway.call(call.rpc, message, caller)
            return json_response(await _as_json(answer), call.status)

        return handle

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})

    async def openapi(self, request: web.Request) -> web.StreamResponse:
        return json_response(self._openapi)

    async def status(self, request: web.Request) -> web.StreamResponse:
        answer = await self._gateway.call("ClusterStatus", pb.ClusterStatusRequest(), _caller(request))
        return json_response(json.dumps(dataclasses.asdict(wire.status_from_wire(answer))))

    async def thumbnail(self, request: web.Request) -> web.StreamResponse:
        """Answers with a record's thumbnail. Browsers revalidate it on each use, and download it only if it has
        changed."""
        keys = request.query.getall("key", [])
        if len(keys) != 1 or len(request.query) != 1:
            raise InvalidRequest("key: give exactly one key, and no other parameter")
        name = request.match_info["name"]
        wanted = pb.GetRequest(collection=name, keys=keys, include_thumbnails=True)
        records = (await self._gateway.call("Get", wanted, _caller(request))).records
        if not records or not records[0].thumbnail:
            raise NotFound(
                f"thumbnail: collection {name!r} has none for key {keys[0][:64]!r}; ingest with thumbnails"
            )
        image = records[0].thumbnail
        headers = {"Cache-Control": "private, no-cache"}
        return conditional_response(request, image, etag_of(image), _image_type(image), headers)

    async def close(self, application: web.Application) -> None:
        await self._gateway.close()


def _caller(request: web.Request) -> Caller:
    return caller_of(request.headers, request[REQUEST_ID])


async def _as_json(message: Message) -> str:
    """Returns the message as JSON, including fields with default values, such as a distance of 0."""

    def encode() -> str:
        return json_format.MessageToJson(
            message, always_print_fields_with_no_presence=True, indent=None, ensure_ascii=False
        )

    return await asyncio.to_thread(encode) if message.ByteSize() > LARGE_BYTES else encode()


def _image_type(data: bytes) -> str:
    """Returns the media type, detected from the content. Only types that cannot contain scripts are allowed."""
    kind = format_of(data)
    if kind is None:
        raise Internal("thumbnail: the stored data is not JPEG, PNG or WebP; ingest the image again")
    return f"image/{kind}"
