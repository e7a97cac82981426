"""The web pages of a cluster that requires API keys, in Chromium."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.async_api import Browser, Request, expect

from lookalike import Record
from lookalike.server.security.keys import load_keys, save_keys
from tests.conftest import wait_until
from tests.security.conftest import SecuredCluster
from tests.web.chromium import watched_page
from tests.web.conftest import chromium as chromium
from tests.web.test_search_page import TILES

MANY = 8
pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module", autouse=True)
def images(secured: SecuredCluster) -> None:
    png = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(png, "PNG")
    with secured.client() as client:
        client.create_collection("0-images", bits=64)
        client.upsert([Record("a", code=bytes(8), thumbnail=png.getvalue())], collection="0-images")
        client.create_collection("1-many", bits=64)
        many = [Record(f"k{i}", code=bytes(8), thumbnail=png.getvalue()) for i in range(MANY)]
        client.upsert(many, collection="1-many")


async def test_the_page_asks_for_a_key_keeps_it_in_memory_and_sends_it(
    secured: SecuredCluster, chromium: Browser
) -> None:
    right, sent = secured.keys["admin"], set()

    def note(request: Request) -> None:
        if "/v1/" in request.url:
            sent.add(request.headers.get("authorization", ""))

    async with watched_page(chromium, secured.cluster.config.web_url, ignore_https_errors=True) as page:
        page.on("request", note)
        await page.goto("/#c=0-images")
        await expect(page.get_by_text("This cluster requires an API key")).to_be_visible()
        await expect(page.get_by_role("alert")).to_be_empty()
        for key, is_right in ((right[:-1], False), (right, True)):
            await page.fill("#api-key", key)
            await page.press("#api-key", "Enter")
            await expect(page.locator("#key-panel")).to_be_visible(visible=not is_right)
            await expect(page.get_by_role("alert")).to_contain_text("" if is_right else "unknown or expired")
        image = page.locator(f"{TILES} img").first
        await expect(image).to_have_attribute("src", re.compile("^blob:"))
        await expect(image).to_have_js_property("complete", True)
        assert await image.evaluate("image => image.naturalWidth") > 0
        assert sent == {"", f"Bearer {right[:-1]}", f"Bearer {right}"}
        assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert right not in page.url


async def test_a_rate_limited_key_loads_all_thumbnails(secured: SecuredCluster, chromium: Browser) -> None:
    ring, key = load_keys(secured.keys_file).added("leisurely", {"1-many": "search"}, MANY / 2)
    save_keys(secured.keys_file, ring)
    wait_until(lambda: secured.accepts(key), 20)
    async with watched_page(chromium, secured.cluster.config.web_url, ignore_https_errors=True) as page:
        await page.goto("/#c=1-many")
        await page.fill("#api-key", key)
        await page.press("#api-key", "Enter")
        shown = page.locator(f'{TILES} img[src^="blob:"]')
        await expect(shown).to_have_count(MANY, timeout=20_000)
        await expect(page.locator(f"{TILES} .blank")).to_have_count(0)


async def test_the_cluster_page_asks_for_a_key(secured: SecuredCluster, chromium: Browser) -> None:
    async with watched_page(chromium, secured.cluster.config.web_url, ignore_https_errors=True) as page:
        await page.goto("/cluster")
        await expect(page.get_by_text("This cluster requires an API key")).to_be_visible()
        await page.fill("#api-key", secured.keys["search"])
        await page.press("#api-key", "Enter")
        await expect(page.get_by_text("All 4 shards are serving.")).to_be_visible()
