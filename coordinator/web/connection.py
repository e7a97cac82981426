"""Owns the connections of the web port: their idle timeout, and the response to malformed HTTP."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from coordinator.web.gateway import request_id_of
from coordinator.web.responses import error_response, with_common_headers
from lookalike.model.errors import InvalidRequest
from lookalike.server.observe import logs
from lookalike.server.serving import DRAIN_SECONDS

log = logging.getLogger("lookalike.web")
# Between requests or within an incomplete one. Longer than the usual 60 s of proxies, so that they close first.
IDLE_SECONDS = 75.0
_MAX_LINE_BYTES = 64 * 1024


class Connection(web.RequestHandler):
    """Answers malformed HTTP with the usual JSON error. aiohttp would log the malformed line, which may contain an
    API key."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The last response on the connection."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        # The quoted input follows a colon.
        what = (message or "").partition(":")[0].rstrip(".")
        log.info("malformed HTTP request from %s: %s", request.remote, logs.without_quotes(what))
        request_id = request_id_of({})
        answer = error_response(InvalidRequest(f"request: malformed HTTP ({what})"), request_id)
        answer.force_close()
        return with_common_headers(answer, request_id)


class Runner(web.AppRunner):
    """Runs an application on these connections."""

    def __init__(self, application: web.Application) -> None:
        super().__init__(application, handler_cancellation=True, shutdown_timeout=DRAIN_SECONDS)

    @property
    def server(self) -> Any:
        """The factory of connections; None before `setup`."""
        served = super().server
        return served and functools.partial(
            Connection,
            served,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None disables the access log
            auto_decompress=False,
            keepalive_timeout=IDLE_SECONDS,
            max_line_size=_MAX_LINE_BYTES,
        )
