"""Owns the web server of a review. It listens on this machine only, and answers only callers that know the token
in the page's address: other users of the machine and other pages in the browser do not."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from importlib import resources
from typing import Any

from aiohttp import web

from lookalike.jobs.dedup.review.state import Review
from lookalike.model.errors import InvalidRequest, LookalikeError

HOST = "127.0.0.1"
_MAX_GROUPS = 100
_POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src data:", "connect-src 'self'",
        "form-action 'none'", "frame-ancestors 'none'", "base-uri 'none'",
    )
)  # fmt: skip
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


def application(review: Review, token: str, port: Callable[[], int]) -> web.Application:
    """The web application. token: what callers must send. port: gives the port that it listens on."""
    files = {
        entry.name: (entry.read_bytes(), _TYPES[entry.name.rpartition(".")[2]])
        for entry in (resources.files(__package__) / "page").iterdir()
        if entry.name.rpartition(".")[2] in _TYPES
    }
    # One call at a time: removals and undoing must not overlap.
    working = asyncio.Lock()

    async def answer(call: Callable[[], dict[str, Any]]) -> web.Response:
        try:
            async with working:
                return web.json_response(await asyncio.to_thread(call))
        except InvalidRequest as error:
            return web.json_response({"error": error.message}, status=400)
        except LookalikeError as error:
            return web.json_response({"error": error.message}, status=503)

    async def page(request: web.Request) -> web.Response:
        name = request.match_info.get("name") or "duplicates.html"
        if name not in files:
            raise web.HTTPNotFound
        content, media_type = files[name]
        return web.Response(body=content, content_type=media_type, charset="utf-8")

    async def groups(request: web.Request) -> web.Response:
        try:
            start, count = (_number(request.query.get(name)) for name in ("start", "count"))
        except ValueError:
            return _wrong("start, count: are not numbers from 0 on")
        return await answer(lambda: review.page(start, min(count, _MAX_GROUPS)))

    async def remove(request: web.Request) -> web.Response:
        try:
            wanted = _wanted(await request.json())
        except (ValueError, KeyError, TypeError):
            return _wrong('groups: is not a list of {"id": number, "keys": [key, ...]}')
        return await answer(lambda: review.remove(wanted))

    async def take_back(request: web.Request) -> web.Response:
        return await answer(review.undo)

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        # A page elsewhere could have its own name lead to this address.
        if request.host not in (f"{HOST}:{port()}", f"localhost:{port()}"):
            return web.json_response({"error": "host: this server is for this machine only"}, status=403)
        is_open = request.method == "GET" and not request.path.startswith("/groups")
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not is_open and not hmac.compare_digest(given.encode(), token.encode()):
            text = "authorization: open the address that `lookalike dedup --review` printed, with its token"
            return web.json_response({"error": text}, status=401)
        response: web.StreamResponse = await handler(request)
        response.headers.update({"content-security-policy": _POLICY, "cache-control": "no-store"})
        return response

    made = web.Application(middlewares=[guard])
    made.router.add_get("/groups", groups)
    made.router.add_post("/remove", remove)
    made.router.add_post("/undo", take_back)
    made.router.add_get("/", page)
    made.router.add_get("/{name}", page)
    return made


def _wrong(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)


def _number(text: str | None) -> int:
    number = int(text or 0)
    if number < 0:
        raise ValueError
    return number


def _wanted(document: Any) -> dict[int, list[str]]:
    return {int(group["id"]): [str(key) for key in group["keys"]] for group in document["groups"]}


async def serve(review: Review, port: int, started: Callable[[str], None]) -> None:
    """Serves a review until it is cancelled.

    Args:
        review: The review.
        port: The port; 0 for a free one.
        started: Called with the address to open once the server listens.

    Raises:
        InvalidRequest: If the port is taken.
    """
    token = secrets.token_urlsafe(16)
    bound = port
    runner = web.AppRunner(application(review, token, lambda: bound), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise InvalidRequest(f"port: {port} cannot be used ({error.strerror}); choose another") from None
        bound = runner.addresses[0][1]
        started(f"http://{HOST}:{bound}/#token={token}")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
