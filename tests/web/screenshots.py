"""Takes the README's screenshots of the two pages: `python -m tests.web.screenshots`. With --all DIR it takes one
of every state instead, light, dark and on a phone, for review."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from PIL import Image
from playwright.async_api import Page

from lab.demo.photographs import bundled_photographs, held_out_photograph, write_views
from lookalike import Record
from lookalike.server.config import EncoderConfig
from tests.conftest import running_cluster
from tests.web.chromium import browser, find_chromium, watched_page
from tests.web.photographs import fill

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_WIDE = {"width": 1200, "height": 800}
_PHONE = {"width": 360, "height": 740}
_VIEWS = 12
# Evaluated once, because the pages' content security policy blocks polled conditions.
_DECODE_IMAGES = """
const seen = [...document.images].filter((image) => image.getBoundingClientRect().top < innerHeight);
Promise.all(seen.map((image) => image.decode().catch(() => null)));
"""


async def first_look(page: Page) -> None:
    await page.goto("/")
    await page.locator(".tile:not(.skeleton)").first.wait_for()


async def found(page: Page) -> None:
    await first_look(page)
    await page.set_input_files("#file", held_out_photograph())
    await page.locator(".distance").first.wait_for()


async def filtered(page: Page) -> None:
    await found(page)
    await page.click("#filter > summary")
    await page.get_by_label("Attribute", exact=True).fill("view")
    await page.get_by_label("Comparison").select_option("is at most")
    await page.get_by_label("Value").fill("3")
    await page.click("#apply")
    await page.locator("#filter-count").get_by_text("1").wait_for()
    await page.locator(".distance").first.wait_for()


async def error(page: Page) -> None:
    await first_look(page)
    await page.set_input_files("#file", __file__)
    await page.locator(".error h2").wait_for()


async def without_thumbnails(page: Page) -> None:
    await page.goto("/#c=codes")
    await page.locator(".blank").first.wait_for()


async def cluster(page: Page) -> None:
    await page.goto("/cluster")
    await page.locator(".card").first.wait_for()


_SCENES = (first_look, found, filtered, error, without_thumbnails, cluster)


async def _shoot(
    base: str, chromium: Path, folder: Path, scenes: list[tuple[Callable[[Page], Awaitable[None]], str]]
) -> None:
    """Takes each scene in its style."""
    async with browser(chromium) as running:
        for scene, style in scenes:
            size = _PHONE if style == "phone" else _WIDE
            look = "dark" if style == "dark" else "light"
            async with watched_page(running, base, viewport=size, color_scheme=look) as page:
                await scene(page)
                await page.evaluate(_DECODE_IMAGES)
                await page.screenshot(path=folder / f"{scene.__name__}-{style}.png", full_page=style == "phone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="DIR")
    everything = parser.parse_args().all
    chromium = find_chromium()
    assert chromium, "Chromium is not installed"
    os.environ["LOOKALIKE__CLUSTER"] = "example"  # the name on the cluster page
    with tempfile.TemporaryDirectory() as name:
        images_folder, shots = Path(name) / "images", everything or Path(name) / "shots"
        shots.mkdir(parents=True, exist_ok=True)
        for photograph in bundled_photographs():
            list(write_views(photograph, range(_VIEWS), "index", images_folder))
        with running_cluster(Path(name) / "cluster", 3, EncoderConfig(), replicas=2) as running:
            with running.client(timeout=120) as client:
                fill(client, "photographs", images_folder)
                client.create_collection("codes", bits=64)
                codes = [Record(f"frame {number}", code=number.to_bytes(8, "big")) for number in range(30)]
                client.upsert(codes, collection="codes")
            base = f"http://{running.config.coordinator.web}"
            styles = ("light", "dark", "phone") if everything else ("light",)
            scenes = [
                (scene, style) for scene in (_SCENES if everything else (found, cluster)) for style in styles
            ]
            asyncio.run(_shoot(base, chromium, shots, scenes))
        if not everything:
            for scene, target in ((found, "search"), (cluster, "cluster")):
                _write_small(shots / f"{scene.__name__}-light.png", IMAGES / f"{target}.png")


def _write_small(source: Path, target: Path) -> None:
    """Writes the screenshot with 256 colours, which takes a third of the bytes."""
    with Image.open(source) as shot:
        shot.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)


if __name__ == "__main__":
    main()
