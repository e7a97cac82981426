"""Owns the coordinator's HTTP port and the handlers behind its routes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl

from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from coordinator.web import routes
from coordinator.web.answers import (
    REQUEST_ID,
    Handler,
    etag_of,
    json_response,
    unless_known,
    with_id_and_errors,
)
from coordinator.web.bodies import LARGE_BYTES, Bodies
from coordinator.web.connection import Runner
from coordinator.web.gateway import Caller, Gateway, caller_of
from coordinator.web.hosts import needs_check, only_loopback
from coordinator.web.openapi import document
from coordinator.web.pages import Pages
from lookalike import wire
from lookalike.model.errors import CannotStart, Internal, InvalidRequest, NotFound
from lookalike.model.thumbnails import format_of
from lookalike.server.config import ClusterConfig
from lookalike.transport.rpc import MAX_MESSAGE_BYTES
from lookalike.v1 import search_pb2 as pb


async def start_web(
    config: ClusterConfig, grpc_address: str, ssl_context: ssl.SSLContext | None = None
) -> web.AppRunner:
    """Serve REST and the pages on the config's `coordinator.web`. grpc_address: where this coordinator's own gRPC
    server listens for it. Raises CannotStart."""
    listen = config.coordinator.web
    runner = Runner(application(config, grpc_address))
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port), ssl_context=ssl_context).start()
    except OSError as error:
        await runner.cleanup()
        raise CannotStart(
            f"coordinator.web: {listen} cannot be bound ({error.strerror}); free the port or name another"
        ) from None
    return runner


def application(config: ClusterConfig, grpc_address: str) -> web.Application:
    """Every route of the table, and the pages."""
    handlers = _Handlers(config, Gateway(grpc_address))
    built = web.Application(
        middlewares=[with_id_and_errors, *([only_loopback] if needs_check(config) else [])],
        client_max_size=MAX_MESSAGE_BYTES,
    )
    for call in routes.CALLS:
        _add(built, call, handlers.of_call(call))
    for other, handler in (
        (routes.HEALTH, handlers.health),
        (routes.STATUS, handlers.status),
        (routes.THUMBNAIL, handlers.thumbnail),
        (routes.OPENAPI, handlers.openapi),
    ):
        _add(built, other, handler)
    Pages().add_to(built)
    built.on_cleanup.append(handlers.close)
    return built


def _add(built: web.Application, route: routes.Call | routes.Other, handler: Handler) -> None:
    """What can be read answers HEAD, too, as `curl -I` and checks of uptime ask."""
    for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
        built.router.add_route(method, route.path, handler)


class _Handlers:
    def __init__(self, config: ClusterConfig, gateway: Gateway) -> None:
        self._gateway = gateway
        self._bodies = Bodies(config.limits.max_image_bytes, config.max_request_bytes)
        self._openapi = json.dumps(document(), ensure_ascii=False, indent=1)

    def of_call(self, call: routes.Call) -> Handler:
        """The handler of one RPC."""

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
        """The picture as it was stored. A browser asks again each time, and gets it only if it has changed."""
        keys = request.query.getall("key", [])
        if len(keys) != 1 or len(request.query) != 1:
            raise InvalidRequest("key: give the key of one record, and nothing else")
        name = request.match_info["name"]
        wanted = pb.GetRequest(collection=name, keys=keys, include_thumbnails=True)
        records = (await self._gateway.call("Get", wanted, _caller(request))).records
        if not records or not records[0].thumbnail:
            raise NotFound(
                f"thumbnail: {keys[0][:64]!r} has none in {name!r}; ingest with thumbnails to keep them"
            )
        picture = records[0].thumbnail
        headers = {"Cache-Control": "private, no-cache"}
        return unless_known(request, picture, etag_of(picture), _picture_type(picture), headers)

    async def close(self, application: web.Application) -> None:
        await self._gateway.close()


def _caller(request: web.Request) -> Caller:
    return caller_of(request.headers, request[REQUEST_ID])


async def _as_json(message: Message) -> str:
    """With fields at their default, too, so that a distance of 0 is there to be read."""

    def written() -> str:
        return json_format.MessageToJson(
            message, always_print_fields_with_no_presence=True, indent=None, ensure_ascii=False
        )

    return await asyncio.to_thread(written) if message.ByteSize() > LARGE_BYTES else written()


def _picture_type(data: bytes) -> str:
    """By the bytes themselves, and of three kinds only: none of them can carry a script."""
    kind = format_of(data)
    if kind is None:
        raise Internal("thumbnail: what is stored is neither JPEG, PNG nor WebP; ingest the picture again")
    return f"image/{kind}"
