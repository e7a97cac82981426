"""Owns a headless Chromium, installed by the system, so nothing is downloaded; and checks of what its pages do."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, Page, Request, async_playwright

REQUIRED = "LOOKALIKE_REQUIRE_CHROMIUM"
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync --disable-extensions"
).split()


def find_chromium() -> Path | None:
    """The path of Chromium; None if it is not installed. Raises AssertionError if the environment requires it."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found or not os.environ.get(REQUIRED), f"{REQUIRED} is set, but Chromium is not installed"
    return Path(found) if found else None


@contextlib.asynccontextmanager
async def browser(executable: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=executable, args=_FLAGS)
        try:
            yield running
        finally:
            await running.close()


class Watch:
    """Records a page's external requests and console errors, which include CSP violations."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.external: list[str] = []
        self.complaints: list[str] = []
        context.on("request", self._note_request)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.base}/", f"blob:{self.base}/", "data:")):
            self.external.append(request.url)

    def check(self) -> None:
        """Asserts that the page made no external requests and logged no errors. Chromium's own message about any
        response with an error status does not count."""
        assert not self.external, self.external
        complaints = [text for text in self.complaints if not text.startswith("Failed to load resource")]
        assert not complaints, complaints


@contextlib.asynccontextmanager
async def watched_page(running: Browser, base: str, **options: Any) -> AsyncIterator[Page]:
    """A page with a new profile, checked at the end. options: passed to `Browser.new_context`."""
    context = await running.new_context(base_url=base, reduced_motion="reduce", locale="en-GB", **options)
    watch = Watch(context, base)
    try:
        page = await context.new_page()
        page.set_default_timeout(20_000)
        yield page
        watch.check()
    finally:
        await context.close()
