"""Owns the web pages: static files in `static/`, read once, served with a content security policy that forbids
third-party requests. Files are looked up by name in memory, so a path cannot reach other files."""

from __future__ import annotations

import dataclasses
from importlib import resources

from aiohttp import web

from coordinator.web.responses import Handler, conditional_response, etag_of

PAGES = {"/": "search.html", "/cluster": "cluster.html"}
STATIC = "/static/{file}"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str


class Pages:
    """The static files, by name."""

    def __init__(self) -> None:
        folder = resources.files(__package__) / "static"
        self._files = {
            entry.name: _file(entry.name, entry.read_bytes()) for entry in folder.iterdir() if entry.is_file()
        }

    def add_to(self, application: web.Application) -> None:
        for path, name in PAGES.items():
            application.router.add_get(path, self._handler_of(name))
        application.router.add_get(STATIC, self._static_file)

    def _handler_of(self, name: str) -> Handler:
        async def page(request: web.Request) -> web.StreamResponse:
            return _response_of(self._files[name], request)

        return page

    async def _static_file(self, request: web.Request) -> web.StreamResponse:
        file = self._files.get(request.match_info["file"])
        if file is None or file.media_type == "text/html":
            raise web.HTTPNotFound
        return _response_of(file, request)


def _file(name: str, content: bytes) -> _File:
    return _File(content, _TYPES[name.rpartition(".")[2]], etag_of(content))


def _response_of(file: _File, request: web.Request) -> web.Response:
    """Returns a response that browsers cache but revalidate on each use, so that they see a new release at once
    and download only changed files."""
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": POLICY,
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    return conditional_response(request, file.content, file.etag, file.media_type, headers, charset="utf-8")
