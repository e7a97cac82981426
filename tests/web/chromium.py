"""Owns a headless Chromium, the system's own, so nothing is downloaded; and the watch over what its pages do."""

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
    """Where it is; None if it is not installed. Raises AssertionError then if the environment says it must be."""
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
    """What a page asked for and complained of. CSP violations are among the complaints."""

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
        """Nothing was asked of anyone else, no script failed, and the policy kept nothing out. Chromium's own note
        about any answer with an error's status is no complaint."""
        assert not self.external, self.external
        complaints = [text for text in self.complaints if not text.startswith("Failed to load resource")]
        assert not complaints, complaints


@contextlib.asynccontextmanager
async def watched_page(running: Browser, base: str, **options: Any) -> AsyncIterator[Page]:
    """A page of a fresh profile; at the end, what it did is checked. options: of `Browser.new_context`."""
    context = await running.new_context(base_url=base, reduced_motion="reduce", locale="en-GB", **options)
    watch = Watch(context, base)
    try:
        page = await context.new_page()
        page.set_default_timeout(20_000)
        yield page
        watch.check()
    finally:
        await context.close()
