"""The static files: security headers and path traversal. The pages in a browser: hostile text, accessibility,
phones."""

from __future__ import annotations

import json
import re
from importlib import resources
from urllib.parse import urlencode

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, expect

from lookalike import Client, Record
from tests.conftest import Cluster
from tests.web.chromium import watched_page
from tests.web.rest import Rest
from tests.web.test_search_page import DROP

STATIC = resources.files("coordinator.web") / "static"
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'"&amp;'
PHONE = {"width": 360, "height": 740}


@pytest.mark.parametrize("path", ["/", "/cluster"])
def test_security_policy_forbids_third_party_requests(rest: Rest, path: str) -> None:
    headers = rest("GET", path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert "aiohttp" not in headers["server"]


def test_files_reference_no_other_host_and_have_no_inline_script_or_style() -> None:
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?:|//\w+\.|innerHTML|insertAdjacentHTML|eval\(|@import|document\.write", text
        ), file
        if file.name.endswith(".html"):
            assert not re.search(
                r"<style|\son\w+=|\sstyle=|<script(?! type=\"module\" src=\"/static/\w+\.js\">)", text
            )


def test_unchanged_file_is_not_sent_again(rest: Rest) -> None:
    first = rest("GET", "/static/style.css")
    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    again = rest("GET", "/static/style.css", if_none_match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert rest("GET", "/static/style.css", if_none_match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static/..%5cserver.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/style.css%00.js",
        "/static/search.html",
        "/static/",
        "/..%2f..%2fpyproject.toml",
    ],
)
def test_paths_cannot_leave_the_static_folder(rest: Rest, path: str) -> None:
    reply = rest("GET", path)
    assert (reply.status, reply.error["code"]) == (404, "NotFound")


@pytest.mark.parametrize(
    "key", ["../../../etc/passwd", "..\\..\\x", "/etc/passwd", "a/../../b", "%2e%2e", "nul\x00nul"]
)
def test_key_is_not_used_as_a_path(rest: Rest, client: Client, collection: str, key: str) -> None:
    image = b"\xff\xd8\xff" + key.encode()
    client.upsert([Record(key, code=bytes(8), thumbnail=image)], collection=collection)
    quoted = "".join(f"%{byte:02x}" for byte in key.encode())
    found = rest("GET", f"/v1/collections/{collection}/thumbnail?key={quoted}")
    assert (found.body, found.headers["content-type"]) == (image, "image/jpeg")


@pytest.mark.asyncio(loop_scope="session")
async def test_html_in_keys_attributes_and_names_is_shown_as_text(
    chromium: Browser, cluster: Cluster, client: Client, collection: str
) -> None:
    attributes = {HOSTILE: HOSTILE, "label": "plain"}
    client.upsert(
        [Record(f"{HOSTILE}{n}", code=n.to_bytes(8, "big"), attributes=attributes) for n in range(5)],
        collection=collection,
    )
    async with watched_page(chromium, f"http://{cluster.config.coordinator.web}") as page:
        await page.goto(f"/#c={collection}")
        await page.locator("#grid a.tile .blank").nth(4).wait_for()
        await page.locator("#grid a.tile").first.click()
        await expect(page.locator("#query-name")).to_contain_text(HOSTILE)
        await expect(page.locator(".attributes").first).to_contain_text(HOSTILE)
        # A tile shows the key's last path segment; the slash in the markup separates segments.
        await expect(page.locator(".name").first).to_contain_text("script>'\"&amp;")
        everywhere = {"c": HOSTILE, "key": HOSTILE, "f": json.dumps([HOSTILE] * 3), "filter": HOSTILE}
        await page.goto(f"/#{urlencode(everywhere)}")
        await expect(page.get_by_role("alert")).to_contain_text("does not exist")
        everywhere |= {"c": collection, "filter": ""}
        await page.goto(f"/#{urlencode(everywhere)}")
        await expect(page.get_by_role("alert")).to_contain_text(f"unknown comparison “{HOSTILE}”")
        assert await page.locator("main script, main img[src=x]").count() == 0
        assert await page.evaluate("window.hacked") is None


@pytest.mark.asyncio(loop_scope="session")
async def test_long_keys_and_names_do_not_break_the_layout(
    chromium: Browser, cluster: Cluster, client: Client, collection: str
) -> None:
    key, name = "long-key" * 60, "n" * 128
    client.upsert([Record(key, code=bytes(8)), Record("b", code=bytes(8))], collection=collection)
    client.create_collection(name, bits=64)
    base = f"http://{cluster.config.coordinator.web}"
    async with watched_page(chromium, base, viewport={"width": 1200, "height": 800}) as page:
        await page.goto(f"/#{urlencode({'c': collection, 'key': key})}")
        await expect(page.locator(".distance").first).to_be_in_viewport()
        await expect(page.locator("#query-name")).to_have_attribute("title", key)
        await page.goto("/cluster")
        row = page.get_by_role("row", name=name)
        await row.scroll_into_view_if_needed()
        await expect(row.get_by_text("precomputed codes")).to_be_in_viewport()
    client.drop_collection(name)


@pytest.mark.asyncio(loop_scope="session")
async def test_empty_collection_explains_how_to_load_data_and_why_images_are_rejected(
    chromium: Browser, cluster: Cluster, collection: str
) -> None:
    async with watched_page(chromium, f"http://{cluster.config.coordinator.web}") as page:
        await page.goto(f"/#c={collection}")
        await expect(page.locator("#heading")).to_have_text("This collection is empty")
        await expect(page.locator("#facts")).to_contain_text(f"lookalike ingest SOURCE -c {collection}")
        await expect(page.get_by_role("button", name="Shuffle")).to_be_hidden()
        await page.evaluate(DROP, [["", "cat.jpg", "image/jpeg"]])
        await expect(page.get_by_role("alert")).to_contain_text("it cannot be searched with an image")


@pytest.mark.asyncio(loop_scope="session")
async def test_with_an_api_key_only_thumbnails_near_the_viewport_are_fetched(
    chromium: Browser, cluster: Cluster, client: Client, collection: str
) -> None:
    client.upsert([Record(f"k{n}", code=n.to_bytes(8, "big")) for n in range(400)], collection=collection)
    async with watched_page(chromium, f"http://{cluster.config.coordinator.web}", viewport=PHONE) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url) if "thumbnail" in request.url else None)
        await page.add_init_script("sessionStorage.setItem('lookalike-api-key', 'any')")
        await page.goto(f"/#c={collection}&key=k0&k=399")
        await page.locator("a.tile .blank").first.wait_for()
        assert await page.locator("a.tile").count() == 399
        assert 1 <= len(asked) < 40
        await page.locator("a.tile").last.scroll_into_view_if_needed()
        await page.locator("a.tile").last.locator(".blank").wait_for()


@pytest.mark.asyncio(loop_scope="session")
async def test_conditions_become_filters(chromium: Browser, cluster: Cluster) -> None:
    async with watched_page(chromium, f"http://{cluster.config.coordinator.web}") as page:
        await page.goto("/cluster")
        values = await page.evaluate(
            "import('/static/filter.js').then(({ filterOf }) =>"
            " filterOf({ conditions: [['a', 'is one of', '\"b, c\", 2,d']], json: null }).in.values)"
        )
        assert values == [{"text": "b, c"}, {"integer": "2"}, {"text": "d"}]
        bounds = await page.evaluate(
            "import('/static/filter.js').then(({ filterOf }) => filterOf({ conditions: ["
            " ['a', 'is at least', '2026-05-01'], ['a', 'is below', '9007199254740993'],"
            " ['$key', 'starts with', '12']], json: null }).and.filters)"
        )
        assert bounds == [
            {"range": {"field": "a", "gteValue": {"text": "2026-05-01"}}},
            {"range": {"field": "a", "ltValue": {"integer": "9007199254740993"}}},
            {"prefix": {"field": "$key", "text": "12"}},
        ]


@pytest.mark.asyncio(loop_scope="session")
async def test_unresponsive_cluster_is_not_shown_as_healthy(chromium: Browser, cluster: Cluster) -> None:
    async with watched_page(chromium, f"http://{cluster.config.coordinator.web}") as page:
        await page.goto("/cluster")
        verdict = page.locator("#verdict")
        await expect(verdict).to_have_text("✓ All 3 shards are serving.")
        await page.route("**/v1/status", lambda route: route.abort())
        await expect(page.get_by_role("alert")).to_contain_text("The coordinator is not responding")
        await expect(verdict).to_have_text("Showing the last known state.")
        await page.unroute("**/v1/status")
        await expect(verdict).to_have_text("✓ All 3 shards are serving.")


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/#c={}&key=k1", "/cluster"])
async def test_pages_are_accessible_and_fit_a_phone(
    chromium: Browser, cluster: Cluster, filled: str, look: str, path: str
) -> None:
    base = f"http://{cluster.config.coordinator.web}"
    async with watched_page(chromium, base, color_scheme=look, viewport=PHONE) as page:
        await page.goto(path.format(filled))
        await page.locator(".card, a.tile").first.wait_for()
        if path != "/cluster":
            await page.click("#filter > summary")
            await page.click(".raw > summary")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for size in (PHONE, {"width": 1200, "height": 800}):
            await page.set_viewport_size(size)
            found = await Axe().run(page)
            assert [
                (violation["id"], [node["html"] for node in violation["nodes"]])
                for violation in found.response["violations"]
            ] == []


@pytest.mark.asyncio(loop_scope="session")
async def test_pages_follow_the_colour_scheme(chromium: Browser, cluster: Cluster) -> None:
    brightness = {}
    for look in ("light", "dark"):
        async with watched_page(chromium, f"http://{cluster.config.coordinator.web}", color_scheme=look) as page:
            await page.goto("/cluster")
            colour = await page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            brightness[look] = sum(map(int, re.findall(r"\d+", colour))) / 3
    assert brightness["light"] > 230
    assert brightness["dark"] < 40
