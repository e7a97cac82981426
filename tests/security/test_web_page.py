"""The pages of a cluster that asks for keys, in a real Chromium."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.async_api import Browser, Request, expect

from lookalike import Record
from lookalike.server.security.keys import load_keys, save_keys
from tests.conftest import wait_until
from tests.security.conftest import Locked
from tests.web.chromium import watched_page
from tests.web.conftest import chromium as chromium
from tests.web.test_search_page import TILES

MANY = 8
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module", autouse=True)
def pictures(locked: Locked) -> None:
    drawn = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(drawn, "PNG")
    with locked.client() as client:
        client.create_collection("0-pictures", bits=64)
        client.upsert([Record("a", code=bytes(8), thumbnail=drawn.getvalue())], collection="0-pictures")
        client.create_collection("1-many", bits=64)
        many = [Record(f"k{i}", code=bytes(8), thumbnail=drawn.getvalue()) for i in range(MANY)]
        client.upsert(many, collection="1-many")


async def test_a_key_is_asked_for_kept_in_the_tab_and_sent_with_everything(
    locked: Locked, chromium: Browser
) -> None:
    right, sent = locked.keys["admin"], set()

    def note(request: Request) -> None:
        if "/v1/" in request.url:
            sent.add(request.headers.get("authorization", ""))

    async with watched_page(chromium, locked.cluster.config.web_url, ignore_https_errors=True) as page:
        page.on("request", note)
        await page.goto("/#c=0-pictures")
        await expect(page.get_by_text("This cluster asks for an API key")).to_be_visible()
        await expect(page.get_by_role("alert")).to_be_empty()
        for key, is_right in ((right[:-1], False), (right, True)):
            await page.fill("#api-key", key)
            await page.press("#api-key", "Enter")
            await expect(page.locator("#key-panel")).to_be_visible(visible=not is_right)
            await expect(page.get_by_role("alert")).to_contain_text("" if is_right else "unknown or expired")
        picture = page.locator(f"{TILES} img").first
        await expect(picture).to_have_attribute("src", re.compile("^blob:"))
        await expect(picture).to_have_js_property("complete", True)
        assert await picture.evaluate("image => image.naturalWidth") > 0
        assert sent == {"", f"Bearer {right[:-1]}", f"Bearer {right}"}
        assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert right not in page.url


async def test_a_key_with_a_rate_shows_all_pictures_in_their_turn(locked: Locked, chromium: Browser) -> None:
    ring, key = load_keys(locked.keys_file).added("leisurely", {"1-many": "search"}, MANY / 2)
    save_keys(locked.keys_file, ring)
    wait_until(lambda: locked.knows(key), 20)
    async with watched_page(chromium, locked.cluster.config.web_url, ignore_https_errors=True) as page:
        await page.goto("/#c=1-many")
        await page.fill("#api-key", key)
        await page.press("#api-key", "Enter")
        shown = page.locator(f'{TILES} img[src^="blob:"]')
        await expect(shown).to_have_count(MANY, timeout=20_000)
        await expect(page.locator(f"{TILES} .blank")).to_have_count(0)


async def test_the_cluster_page_asks_for_a_key_too(locked: Locked, chromium: Browser) -> None:
    async with watched_page(chromium, locked.cluster.config.web_url, ignore_https_errors=True) as page:
        await page.goto("/cluster")
        await expect(page.get_by_text("This cluster asks for an API key")).to_be_visible()
        await page.fill("#api-key", locked.keys["search"])
        await page.press("#api-key", "Enter")
        await expect(page.get_by_text("All 4 shards serve.")).to_be_visible()
