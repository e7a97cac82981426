"""Owns the coordinator's HTTP port: liveness for load balancers, and the cluster's status as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

from aiohttp import web

from lookalike.errors import CannotStart
from lookalike.records import ClusterStatus


async def start_web(listen: str, status: Callable[[], Awaitable[ClusterStatus]]) -> web.AppRunner:
    """Serve `GET /healthz` and `GET /v1/status` on "host:port". Raises CannotStart."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def cluster(request: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(await status()))

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/v1/status", cluster)])
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        await web.TCPSite(runner, host.strip("[]"), int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise CannotStart(
            f"coordinator.web: {listen} cannot be bound ({error.strerror}); free the port or name another"
        ) from None
    return runner
