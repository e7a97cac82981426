"""The page where a person reviews near-duplicates: files really move, and come back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, expect

from encoder.file_facts import facts
from encoder.ingest.sources import find_sources
from encoder.thumbnails import thumbnail
from lookalike import Client, Record
from tests.conftest import Cluster
from tests.web.chromium import watched_page

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    """Two photographs with a smaller copy each, one of them also with an equal copy, and one without."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, path in zip("abc", sorted(photographs.rglob("*.jpg")), strict=False):
        shutil.copyfile(path, folder / f"{name}.jpg")
        if name < "c":
            with Image.open(path) as image:
                image.resize((image.width // 2, image.height // 2)).save(folder / f"{name}-small.jpg")
    shutil.copyfile(folder / "a.jpg", folder / "a-again.jpg")
    return folder


@pytest.fixture
def ingested(client: Client, collection: str, folder: Path) -> str:
    """The folder's records, as a job would store them; the copies of a picture have its code."""
    records = [
        Record(
            source.key,
            code=source.key[0].encode() * 8,
            attributes={
                "source": {
                    **source.attributes["source"],
                    **dataclasses.asdict(facts((folder / source.key).read_bytes())),
                }
            },
            thumbnail=thumbnail(folder / source.key),
        )
        for source in find_sources([str(folder)]).sources
    ]
    client.upsert(records, collection=collection)
    return collection


@contextlib.asynccontextmanager
async def review(cluster: Cluster, collection: str, *options: str, cwd: Path) -> AsyncIterator[str]:
    """Runs the command; yields the address that it prints."""
    command = [
        "-m", "lookalike", "dedup", "-c", collection, "--max-distance", "0", "--review", "--server",
        cluster.address, *options,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, cwd=cwd
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith("2 groups to review at http://127.0.0.1:"), line
        yield line.split()[-1]
    finally:
        process.terminate()
        await process.wait()


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_from_duplicates_to_worse_copies_moved_in_three_actions(
    chromium: Browser, cluster: Cluster, client: Client, ingested: str, folder: Path
) -> None:
    away = folder.parent / "away"
    async with review(cluster, ingested, "--apply", f"move:{away}", cwd=folder.parent) as address:
        base, _, fragment = address.partition("/#")
        async with watched_page(chromium, base) as page:
            began = time.monotonic()
            await page.goto(f"/#{fragment}")
            await page.get_by_role("button", name="Remove all marked").click()
            await page.get_by_role("button", name="Remove", exact=True).click()
            await expect(page.get_by_text("Removed")).to_have_count(3)
            took = time.monotonic() - began
            assert took < 60
            assert names(folder) == {"a.jpg", "b.jpg", "c.jpg"} or names(folder) == {
                "a-again.jpg",
                "b.jpg",
                "c.jpg",
            }
            assert len(names(away)) == 3
            assert client.get_collection(ingested).rows == 3

            await page.get_by_role("button", name="Undo").click()
            await expect(page.get_by_text("Removed")).to_have_count(0)
            assert names(folder) == {"a.jpg", "a-again.jpg", "a-small.jpg", "b.jpg", "b-small.jpg", "c.jpg"}
            assert client.get_collection(ingested).rows == 6
            await expect(page.get_by_role("button", name="Undo")).to_be_disabled()
            assert [violation["id"] for violation in (await Axe().run(page)).response["violations"]] == []


async def test_by_keyboard_one_of_a_group_always_stays(
    chromium: Browser, cluster: Cluster, client: Client, ingested: str, folder: Path
) -> None:
    async with review(
        cluster, ingested, "--apply", f"move:{folder.parent / 'away'}", cwd=folder.parent
    ) as address:
        base, _, fragment = address.partition("/#")
        async with watched_page(chromium, base, color_scheme="dark") as page:
            await page.goto(f"/#{fragment}")
            pictures = page.locator(".picture")
            await expect(pictures).to_have_count(5)
            await expect(page.locator(".picture img")).to_have_count(5)
            # The first group is the larger one: three pictures, of which two are marked.
            await page.keyboard.press("ArrowDown")
            await expect(pictures.nth(0)).to_be_focused()
            kept = page.locator(".group").first.get_by_text("Stays")
            await expect(kept).to_have_count(1)
            for place in range(3):
                if await pictures.nth(place).get_attribute("aria-pressed") == "false":
                    await page.keyboard.press("Space")
                await page.keyboard.press("ArrowRight")
            await expect(page.get_by_role("button", name="One must stay")).to_be_disabled()
            await page.keyboard.press("r")
            assert client.get_collection(ingested).rows == 6
            # Unmark the last, and remove the others.
            await page.keyboard.press("Space")
            await page.keyboard.press("r")
            await expect(page.locator(".group").first.get_by_text("Removed")).to_have_count(2)
            assert client.get_collection(ingested).rows == 4
            await page.keyboard.press("u")
            await expect(page.get_by_text("Removed")).to_have_count(0)
            assert client.get_collection(ingested).rows == 6
            assert [violation["id"] for violation in (await Axe().run(page)).response["violations"]] == []


async def test_only_who_knows_the_token_may_read_or_remove(
    cluster: Cluster, client: Client, ingested: str, folder: Path
) -> None:
    def asked(
        address: str, path: str, token: str = "", host: str = "", body: bytes | None = None
    ) -> tuple[int, str]:
        headers = {"authorization": f"Bearer {token}", **({"host": host} if host else {})}
        request = urllib.request.Request(address + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async with review(cluster, ingested, cwd=folder.parent) as opened:
        address, _, token = opened.partition("/#token=")

        async def ask(path: str, token: str = "", host: str = "", document: object = None) -> tuple[int, str]:
            body = None if document is None else json.dumps(document).encode()
            return await asyncio.to_thread(asked, address, path, token, host, body)

        assert (await ask("/groups?start=0&count=5"))[0] == 401
        assert (await ask("/groups?start=0&count=5", "wrong"))[0] == 401
        assert (await ask("/undo", document={}))[0] == 401
        assert (await ask("/", host="attacker.example"))[0] == 403
        assert (await ask("/groups?start=-1&count=x", token))[0] == 400
        assert (await ask("/../state.py"))[0] == 404
        assert (await ask("/remove", token, document=[1]))[0] == 400
        status, text = await ask("/groups?start=0&count=5", token)
        (first, second) = json.loads(text)["groups"]
        keys = [record["key"] for record in first["records"]]
        assert (status, len(keys)) == (200, 3)
        for wanted, reason in (
            ({"id": 0, "keys": keys}, "none of group 0 would stay"),
            ({"id": 9, "keys": keys}, "there is no group 9"),
            ({"id": 1, "keys": keys[:1]}, "is not in group 1"),
        ):
            status, text = await ask("/remove", token, document={"groups": [wanted]})
            assert status == 400
            assert reason in text
        # Without --apply, records are tagged, and nothing is deleted.
        worse = [record["key"] for record in second["records"] if not record["keep"]]
        status, text = await ask("/remove", token, document={"groups": [{"id": 1, "keys": worse}]})
        assert json.loads(text)["groups"] == [{"id": 1, "gone": worse}]
        (tagged,) = client.get(worse, collection=ingested)
        assert "duplicate_of" in tagged.attributes
        await ask("/undo", token, document={})
        (tagged,) = client.get(worse, collection=ingested)
        assert "duplicate_of" not in tagged.attributes
