"""Owns the connections under the web port: how long one may be silent, and what becomes of bytes on it that are no
HTTP request."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from coordinator.web.answers import error_response, made_safe
from coordinator.web.gateway import request_id_of
from lookalike.model.errors import InvalidRequest
from lookalike.server.observe import logs
from lookalike.server.serving import DRAIN_SECONDS

log = logging.getLogger("lookalike.web")
# Without a request, or with a part of one; longer than the minute that proxies keep theirs.
IDLE_SECONDS = 75.0
_MAX_LINE_BYTES = 64 * 1024


class Connection(web.RequestHandler):
    """Answers what cannot be read with an error like all others. aiohttp would log the broken line, which may be
    the one that holds a key."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The last answer on the connection."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        # What it quotes comes after a colon.
        what = (message or "").partition(":")[0].rstrip(".")
        log.info("no HTTP request from %s: %s", request.remote, logs.without_quotes(what))
        request_id = request_id_of({})
        answer = error_response(InvalidRequest(f"request: is no HTTP that can be read ({what})"), request_id)
        answer.force_close()
        return made_safe(answer, request_id)


class Runner(web.AppRunner):
    """Runs an application over such connections."""

    def __init__(self, application: web.Application) -> None:
        super().__init__(application, handler_cancellation=True, shutdown_timeout=DRAIN_SECONDS)

    @property
    def server(self) -> Any:
        """What makes each connection; None before the setup."""
        served = super().server
        return served and functools.partial(
            Connection,
            served,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # how aiohttp is told to keep none
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=_MAX_LINE_BYTES,
        )
