"""The cluster page and the search page while a shard is down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Route, expect

from lookalike import Record
from tests.conftest import Cluster, running_cluster, wait_until
from tests.web.chromium import watched_page
from tests.web.rest import Rest

pytestmark = pytest.mark.asyncio(loop_scope="session")
SHARD = "shard-r0-1"


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("killed"), partitions=2) as running:
        yield running


def _successor(cluster: Cluster, old: int) -> int:
    wait_until(lambda: cluster.pid(SHARD) != old, 30)
    return cluster.pid(SHARD)


@contextlib.asynccontextmanager
async def shard_kept_down(cluster: Cluster) -> AsyncIterator[None]:
    """Kills a shard, and stops its replacement, which the supervisor starts, until the block ends."""
    old = cluster.kill(SHARD, signal.SIGKILL)
    new = await asyncio.to_thread(_successor, cluster, old)
    os.kill(new, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(new, signal.SIGCONT)


async def with_short_timeout(route: Route) -> None:
    """Shortens the timeout of a search, which otherwise waits for a stalled shard up to its limit."""
    await route.continue_(headers={**route.request.headers, "x-timeout-ms": "1500"})


async def test_without_collections_the_page_says_how_to_load_data(chromium: Browser, own_cluster: Cluster) -> None:
    async with watched_page(chromium, f"http://{own_cluster.config.coordinator.web}") as page:
        await page.goto("/")
        await expect(page.get_by_role("heading", name="Nothing to search yet")).to_be_visible()
        await expect(page.locator("pre")).to_have_text("lookalike ingest FOLDER -c photos")
        await expect(page.locator("#search")).to_be_hidden()
        assert [violation["id"] for violation in (await Axe().run(page)).response["violations"]] == []
        with own_cluster.client() as client:
            client.create_collection("codes", bits=64)
            client.upsert([Record(f"k{n}", code=n.to_bytes(8, "big")) for n in range(40)], collection="codes")
        await page.get_by_role("button", name="Reload").click()
        await expect(page.locator("#grid a.tile")).to_have_count(12)
        await expect(page.get_by_text("This collection stores precomputed codes")).to_be_visible()


async def test_pages_show_a_shard_going_down_and_recovering(chromium: Browser, own_cluster: Cluster) -> None:
    base = f"http://{own_cluster.config.coordinator.web}"
    async with watched_page(chromium, base) as page, watched_page(chromium, base) as searching:
        await page.goto("/cluster")
        verdict, card = page.locator("#verdict"), page.locator(".card").nth(1)
        await expect(verdict).to_have_text("✓ All 2 shards are serving.")
        await expect(card).to_contain_text(re.compile(r"Partition 1.*Replica 0 serving", re.DOTALL))
        async with shard_kept_down(own_cluster):
            await expect(verdict).to_contain_text("partition 1 has no serving shard")
            await expect(verdict).to_contain_text("1 of 2 shards is not serving")
            await expect(card).to_contain_text("Replica 0 unavailable")
            await searching.route("**/search", with_short_timeout)
            await searching.goto("/#c=codes")
            alert = searching.get_by_role("alert")
            await expect(alert).to_contain_text(
                re.compile("Part of the cluster is not responding|Request timed out")
            )
            await alert.get_by_role("button", name="Search the other partitions").click()
            await expect(searching.locator("#facts")).to_contain_text("only 1 of 2 partitions answered")
            reply = await asyncio.to_thread(
                Rest(own_cluster.config.coordinator.web),
                "POST",
                "/v1/collections/codes/search",
                {"query": {"key": "k1"}, "options": {"k": 1}},
                x_timeout_ms="600",
            )
            assert reply.status in (503, 504)
        await expect(verdict).to_have_text("✓ All 2 shards are serving.", timeout=30_000)
        await expect(card).to_contain_text("Replica 0 serving")


async def test_hidden_page_does_not_poll(chromium: Browser, own_cluster: Cluster) -> None:
    async with watched_page(chromium, f"http://{own_cluster.config.coordinator.web}") as page:
        await page.goto("/cluster")
        await page.locator(".card").first.wait_for()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await page.wait_for_timeout(2_500)
        assert len(asked) <= 1
        await page.evaluate(
            "Object.defineProperty(document, 'hidden', {value: false});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        async with page.expect_response("**/v1/status"):
            pass
