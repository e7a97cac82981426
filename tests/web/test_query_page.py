"""What a search on the page is about: a part of the query image, and further records that hits are to be like or
not like. In a real browser, with real photographs."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, Page, expect

from lookalike import Client, Example
from tests.conftest import Cluster
from tests.web.chromium import watched_page
from tests.web.conftest import PHOTOGRAPHS
from tests.web.test_pages import PHONE
from tests.web.test_search_page import TILES, keys_shown, upload

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser, photograph_base: str) -> AsyncIterator[Page]:
    async with watched_page(chromium, photograph_base) as page:
        yield page


@pytest.fixture
def client(encoder_cluster: Cluster) -> Client:
    return encoder_cluster.client(timeout=60)


@pytest.fixture(scope="session")
def some_key(photographs: Path) -> str:
    """The key of a record in the collection."""
    return str(min(photographs.rglob("*.jpg")).relative_to(photographs))


def box_of(page: Page) -> list[float]:
    """The box in the page's URL."""
    (text,) = parse_qs(page.url.partition("#")[2])["box"]
    return [float(edge) for edge in text.split(",")]


async def type_edges(page: Page, *edges: float) -> None:
    for name, edge in zip(("Left", "Top", "Right", "Bottom"), edges, strict=True):
        await page.get_by_label(name, exact=True).fill(str(edge))


async def test_a_part_of_the_image_is_chosen_with_the_mouse(page: Page, client: Client, cat: Path) -> None:
    whole = await upload(page, cat)
    await page.click("#part")
    stage = page.locator("#crop-image")
    await expect(stage).to_have_js_property("complete", True)
    area = await stage.bounding_box()
    assert area is not None
    await page.mouse.move(area["x"] + area["width"] * 0.9, area["y"] + area["height"] * 0.8)
    await page.mouse.down()
    await page.mouse.move(area["x"] + area["width"] * 0.5, area["y"] + area["height"] * 0.5, steps=3)
    await page.mouse.move(area["x"] + area["width"] * 0.4, area["y"] + area["height"] * 0.1, steps=3)
    await page.mouse.up()
    await expect(page.locator("#crop-note")).to_contain_text("from 40 to 90 % across, from 10 to 80 % down")
    await page.click("#use-part")
    await expect(page.locator("#part-note")).to_contain_text("from 40 to 90 % across")
    found = await keys_shown(page)
    box = box_of(page)
    assert box == pytest.approx([0.4, 0.1, 0.9, 0.8], abs=0.02)
    expected = client.search(collection=PHOTOGRAPHS, image=cat, k=24, box=tuple(box)).keys  # type: ignore[arg-type]
    assert found == expected
    assert found != whole
    canvas = page.locator("#drop canvas.query")
    with Image.open(cat) as picture:
        shares = [picture.width * (box[2] - box[0]), picture.height * (box[3] - box[1])]
    size = await canvas.evaluate("canvas => canvas.width / canvas.height")
    assert size == pytest.approx(shares[0] / shares[1], rel=0.05)
    await page.go_back()
    await expect(page.locator("#part-note")).to_be_hidden()
    assert await keys_shown(page) == whole


async def test_a_part_of_the_image_is_chosen_with_the_keyboard(page: Page, client: Client, cat: Path) -> None:
    await upload(page, cat)
    await page.locator("#part").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#crop")).to_be_visible()
    seen = []
    for _ in range(7):
        seen.append(await page.evaluate("document.activeElement.id"))
        await page.keyboard.press("Tab")
    assert seen == ["x0", "y0", "x1", "y1", "use-part", "use-whole", "crop-cancel"]
    await page.locator("#x0").focus()
    await page.keyboard.press("ControlOrMeta+A")
    for text in ("25", "0", "75", "50.5"):
        await page.keyboard.type(text)
        await page.keyboard.press("Tab")
    await expect(page.locator("#crop-note")).to_contain_text("from 25 to 75 % across")
    await page.locator("#use-part").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#part-note")).to_be_visible()
    found = await keys_shown(page)
    assert box_of(page) == [0.25, 0, 0.75, 0.505]
    assert found == client.search(collection=PHOTOGRAPHS, image=cat, k=24, box=(0.25, 0, 0.75, 0.505)).keys
    await page.click("#part")
    await expect(page.locator("#x1")).to_have_value("75")
    await page.click("#use-whole")
    await expect(page.locator("#part-note")).to_be_hidden()
    assert "box=" not in page.url


async def test_edges_that_cross_cannot_be_used_and_escape_changes_nothing(page: Page, cat: Path) -> None:
    whole = await upload(page, cat)
    await page.click("#part")
    await type_edges(page, 60, 0, 50, 100)
    await expect(page.locator("#use-part")).to_be_disabled()
    await expect(page.locator("#crop-note")).to_contain_text("Left must be less than right")
    await type_edges(page, 40, 0, 50, 100)
    await expect(page.locator("#use-part")).to_be_enabled()
    area = await page.locator("#crop-image").bounding_box()
    assert area is not None
    await page.mouse.move(area["x"] + 20, area["y"] + 20)
    await page.mouse.down()
    await page.mouse.move(area["x"] + 21, area["y"] + 20)
    await page.mouse.up()
    await expect(page.locator("#crop-note")).to_contain_text("from 40 to 50 % across, from 0 to 100 % down")
    await page.keyboard.press("Escape")
    await expect(page.locator("#crop")).to_be_hidden()
    assert "box=" not in page.url
    assert await keys_shown(page) == whole


async def test_an_image_that_the_browser_cannot_show_has_no_parts(page: Page, tmp_path: Path, cat: Path) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    Image.open(cat).save(tmp_path / "cat.heic")
    await upload(page, tmp_path / "cat.heic")
    await expect(page.locator("#part")).to_be_hidden()


async def test_hits_join_the_search_as_examples(page: Page, client: Client, cat: Path) -> None:
    first = await upload(page, cat)
    await page.locator(TILES).nth(5).hover()
    await page.get_by_role("button", name=f"Also like {first[5]}").click()
    await expect(page.locator("#examples li")).to_have_count(1)
    await expect(page.locator("#examples")).to_contain_text("and like")
    await expect(page.locator(".distance").first).to_contain_text("score")
    second = await keys_shown(page)
    assert second == client.search(
        collection=PHOTOGRAPHS, examples=[Example(image=cat), Example(key=first[5])], k=24
    ).keys  # fmt: skip
    button = page.get_by_role("button", name=f"Not like {second[8]}")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#examples li")).to_have_count(2)
    third = await keys_shown(page)
    assert third == client.search(
        collection=PHOTOGRAPHS, examples=[Example(image=cat), Example(key=first[5])],
        not_like=[Example(key=second[8])], k=24,
    ).keys  # fmt: skip
    await page.get_by_role("button", name=f"Remove {first[5]}").click()
    await expect(page.locator("#examples li")).to_have_count(1)
    await page.locator(TILES).first.click()
    await expect(page.locator("#examples")).to_be_hidden()
    assert not re.search("like=|not=|box=", page.url)


async def test_a_record_with_further_examples_can_be_shared_as_a_link(
    page: Page, client: Client, some_key: str
) -> None:
    others = [key for key in client.search(collection=PHOTOGRAPHS, key=some_key, k=3).keys if key != some_key]
    await page.goto(f"/#c={PHOTOGRAPHS}&key={some_key}&like={others[0]}&not={others[1]}")
    found = await keys_shown(page)
    assert found == client.search(
        collection=PHOTOGRAPHS, examples=[Example(key=some_key), Example(key=others[0])],
        not_like=[Example(key=others[1])], k=24,
    ).keys  # fmt: skip


@pytest.mark.parametrize("look", ["light", "dark"])
async def test_the_dialog_and_the_examples_are_accessible_and_fit_a_phone(
    chromium: Browser, photograph_base: str, cat: Path, look: str
) -> None:
    async with watched_page(chromium, photograph_base, color_scheme=look, viewport=PHONE) as page:
        keys = await upload(page, cat)
        for place, words in [(3, "Also like"), (4, "Not like")]:
            await page.get_by_role("button", name=f"{words} {keys[place]}").focus()
            await page.keyboard.press("Enter")
            await expect(page.locator("#examples li")).to_have_count(place - 2)
            keys = await keys_shown(page)
        for is_open in (False, True):
            if is_open:
                await page.click("#part")
                await type_edges(page, 10, 10, 60, 90)
            assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
            for size in (PHONE, {"width": 1200, "height": 800}):
                await page.set_viewport_size(size)
                found = await Axe().run(page)
                assert [
                    (violation["id"], [node["html"] for node in violation["nodes"]])
                    for violation in found.response["violations"]
                ] == []
            await page.set_viewport_size(PHONE)
