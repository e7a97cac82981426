"""The search page in a real browser, with real photographs. Every test also asserts that the page made no
third-party requests."""

from __future__ import annotations

import base64
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pillow_heif
import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Browser, Page, expect

from tests.web.chromium import watched_page
from tests.web.conftest import PHOTOGRAPHS

pytestmark = pytest.mark.asyncio(loop_scope="session")
TILES = "#grid a.tile"


@pytest_asyncio.fixture(loop_scope="session")
async def page(chromium: Browser, photograph_base: str) -> AsyncIterator[Page]:
    async with watched_page(chromium, photograph_base) as page:
        yield page


@pytest.fixture(scope="session")
def cat_base64(cat: Path) -> str:
    return base64.b64encode(cat.read_bytes()).decode()


@pytest.fixture(scope="session")
def some_key(photographs: Path) -> str:
    """The key of a record in the collection."""
    return str(min(photographs.rglob("*.jpg")).relative_to(photographs))


async def keys_shown(page: Page) -> list[str]:
    """The keys of the results, once they are shown."""
    await expect(page.locator("#results:not([aria-busy]) #heading")).to_contain_text("nearest")
    await expect(page.locator(".distance").first).to_be_visible()
    return await page.locator(TILES).evaluate_all("tiles => tiles.map(tile => tile.title.split('\\n')[0])")


async def upload(page: Page, file: Path) -> list[str]:
    await page.goto("/")
    await page.set_input_files("#file", file)
    return await keys_shown(page)


async def test_chosen_image_finds_similar_ones(page: Page, cat: Path) -> None:
    keys = await upload(page, cat)
    assert [key.split("/")[0] for key in keys[:3]] == ["chelsea"] * 3
    assert len(keys) == 24
    await expect(page.locator("#query-name")).to_have_text(cat.name)
    await expect(page.locator("#facts")).to_contain_text("40 records compared (exact) · all 2 partitions answered")
    await expect(page.locator("#facts")).to_contain_text("encode")
    await expect(page.locator(".distance").first).to_contain_text("apart")
    for image in (page.locator("#drop img.query"), page.locator(f"{TILES} img").first):
        await expect(image).to_have_js_property("complete", True)
        assert await image.evaluate("image => image.naturalWidth") > 30


@pytest.mark.parametrize("how", ["drop", "paste"])
async def test_image_can_be_dropped_or_pasted(page: Page, cat_base64: str, how: str) -> None:
    await page.goto("/")
    await page.locator(TILES).first.wait_for()
    await page.evaluate(
        """([how, data]) => {
            const carried = new DataTransfer();
            const bytes = Uint8Array.from(atob(data), (mark) => mark.charCodeAt(0));
            carried.items.add(new File([bytes], "cat.jpg", { type: "image/jpeg" }));
            const drag = (name) => new DragEvent(name, { dataTransfer: carried, bubbles: true, cancelable: true });
            if (how === "drop") {
                document.body.dispatchEvent(drag("dragenter"));
                if (!document.body.classList.contains("dragging")) throw new Error("no highlight");
                document.body.dispatchEvent(drag("drop"));
                if (document.body.classList.contains("dragging")) throw new Error("highlight stays");
            } else document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried, bubbles: true }));
        }""",
        [how, cat_base64],
    )
    assert (await keys_shown(page))[0].startswith("chelsea/")


DROP = """(given) => {
    const carried = new DataTransfer();
    for (const [data, name, type] of given) {
        carried.items.add(new File([Uint8Array.from(atob(data), (mark) => mark.charCodeAt(0))], name, { type }));
    }
    const dropped = new DragEvent("drop", { dataTransfer: carried, bubbles: true, cancelable: true });
    document.body.dispatchEvent(dropped);
}"""


async def test_of_several_dropped_files_the_image_is_used(page: Page, cat_base64: str) -> None:
    await page.goto("/")
    await page.locator(TILES).first.wait_for()
    await page.evaluate(DROP, [["", "notes.txt", "text/plain"], [cat_base64, "cat.jpg", "image/jpeg"]])
    assert (await keys_shown(page))[0].startswith("chelsea/")
    await expect(page.locator("#query-name")).to_have_text("cat.jpg")


async def test_heic_photograph_is_searched_though_the_browser_cannot_show_it(
    page: Page, cat: Path, tmp_path: Path
) -> None:
    pillow_heif.register_heif_opener()
    with Image.open(cat) as image:
        image.save(tmp_path / "IMG_1.HEIC")
    data = base64.b64encode((tmp_path / "IMG_1.HEIC").read_bytes()).decode()
    await page.goto("/")
    await page.locator(TILES).first.wait_for()
    # Browsers know no type for it.
    await page.evaluate(DROP, [["", "notes.txt", "text/plain"], [data, "IMG_1.HEIC", ""]])
    assert (await keys_shown(page))[0].startswith("chelsea/")
    await expect(page.locator("#query-name")).to_have_text("IMG_1.HEIC")
    await expect(page.locator("#drop img.query")).to_be_hidden()
    assert ".heic" in str(await page.get_attribute("#file", "accept"))


async def test_deleted_file_is_not_reported_as_a_lost_connection(page: Page, cat: Path, tmp_path: Path) -> None:
    gone = shutil.copy(cat, tmp_path / "gone.jpg")
    await upload(page, gone)
    gone.unlink()
    await page.fill("#k", "5")
    await page.press("#k", "Enter")
    await expect(page.get_by_role("alert")).to_contain_text("“gone.jpg” cannot be read")


async def test_back_never_shows_another_image(page: Page, cat: Path) -> None:
    await upload(page, cat)
    await page.reload()
    await expect(page.get_by_role("alert")).to_contain_text("Images are kept only until")
    await page.set_input_files("#file", cat)
    await keys_shown(page)
    await page.go_back()
    await expect(page.get_by_role("alert")).to_contain_text("Images are kept only until")
    await expect(page.locator("#query-name")).to_be_hidden()


async def test_one_click_on_a_sample_finds_similar_images(page: Page) -> None:
    """Opens the page and clicks one of the sample records."""
    await page.goto("/")
    await expect(page.locator("#heading")).to_have_text("Or start from one of these")
    first = page.locator(TILES).first
    key = (await first.get_attribute("title") or "").split("\n")[0]
    await first.click()
    keys = await keys_shown(page)
    assert keys[0].split("/")[0] == key.split("/")[0]
    assert key not in keys


@pytest.mark.parametrize("way", ["click", "keyboard"])
async def test_result_links_to_more_like_it_and_back_returns(page: Page, cat: Path, way: str) -> None:
    before = await upload(page, cat)
    result = page.locator(TILES).nth(3)
    if way == "click":
        await result.click()
    else:
        await result.focus()
        await page.keyboard.press("Enter")
    await expect(page.locator("#query-name")).to_have_text(before[3])
    after = await keys_shown(page)
    assert before[3] not in after
    assert after[0].split("/")[0] == before[3].split("/")[0]
    await page.go_back()
    await expect(page.locator("#query-name")).to_have_text(cat.name)
    assert await keys_shown(page) == before


async def test_search_url_can_be_shared(
    page: Page, chromium: Browser, photograph_base: str, some_key: str
) -> None:
    await page.goto("/")
    await page.click("#filter > summary")
    await page.fill("#key", some_key)
    await page.press("#key", "Enter")
    await expect(page.locator("#query-name")).to_have_text(some_key)
    keys = await keys_shown(page)
    async with watched_page(chromium, photograph_base) as other:
        await other.goto(page.url)
        assert await keys_shown(other) == keys


async def test_tab_key_reaches_all_controls_in_order(page: Page, cat: Path) -> None:
    await upload(page, cat)
    await expect(page.locator("#part")).to_be_visible()
    await page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(9):
        await page.keyboard.press("Tab")
        seen.append(
            await page.evaluate(
                "document.activeElement.id || document.activeElement.textContent.trim().slice(0, 8)"
            )
        )
    assert seen[:7] == ["Lookalik", "Search", "Cluster", "file", "part", "collection", "k"]
    assert await page.evaluate("document.activeElement.matches('a.tile')")


async def test_conditions_filter_results(page: Page, cat: Path) -> None:
    await upload(page, cat)
    await page.click("#filter > summary")
    await page.get_by_label("Attribute", exact=True).fill("label")
    await page.get_by_label("Value").fill("coffee")
    await page.click("#add")
    await page.get_by_label("Attribute", exact=True).nth(1).fill("view")
    await page.get_by_label("Comparison").nth(1).select_option("is at most")
    await page.get_by_label("Value").nth(1).fill("1")
    await page.click("#apply")
    await expect(page.locator("#filter-count")).to_have_text(" (2)")
    await expect(page.locator(TILES)).to_have_count(2)
    assert all(key.startswith("coffee/") for key in await keys_shown(page))
    await page.get_by_label("Value").nth(0).fill("no such")
    await page.click("#apply")
    await expect(page.locator("#heading")).to_have_text("No records match these conditions")


async def test_values_of_the_chosen_attribute_are_suggested(page: Page, cat: Path) -> None:
    await upload(page, cat)
    await page.click("#filter > summary")
    await page.get_by_label("Attribute", exact=True).fill("label")
    await page.get_by_label("Value").focus()
    suggested = page.locator(".condition datalist option")
    await expect(suggested.and_(page.locator("[value=coffee]"))).to_have_count(1)
    await page.get_by_label("Attribute", exact=True).fill("view")
    await page.get_by_label("Value").focus()
    await expect(suggested.and_(page.locator("[value='1']"))).to_have_count(1)
    await expect(suggested.and_(page.locator("[value=coffee]"))).to_have_count(0)
    await page.get_by_label("Attribute", exact=True).fill("never")
    await page.get_by_label("Value").focus()
    await expect(suggested).to_have_count(0)


async def test_k_distance_and_json_filter_are_applied(page: Page, cat: Path) -> None:
    await upload(page, cat)
    await page.fill("#k", "5")
    await page.press("#k", "Enter")
    await expect(page.locator(TILES)).to_have_count(5)
    await page.click("#filter > summary")
    await page.click(".raw summary")
    await page.fill("#json", '{"$not": {"label": "chelsea"}}')
    await page.click("#apply")
    await expect(page.locator("#filter-count")).to_have_text(" (1)")
    assert not any(key.startswith("chelsea/") for key in await keys_shown(page))
    await page.fill("#json", "{")
    await page.click("#apply")
    await expect(page.get_by_role("alert")).to_contain_text("Filter: invalid JSON")
    await page.fill("#json", "")
    await page.fill("#max", "0")
    await page.click("#apply")
    await expect(page.locator("#heading")).to_have_text("No records match these conditions")
    await expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.parametrize("way", ["image", "key"])
async def test_load_more_adds_the_next_results_to_the_last(page: Page, cat: Path, some_key: str, way: str) -> None:
    if way == "image":
        await upload(page, cat)
    else:
        await page.goto(f"/#c={PHOTOGRAPHS}&key={quote(some_key)}")
        await keys_shown(page)
    records = 40 if way == "image" else 39
    await page.fill("#k", str(records))
    await page.press("#k", "Enter")
    await expect(page.locator(TILES)).to_have_count(records)
    expected = await keys_shown(page)
    more = page.get_by_role("button", name="Load more")
    await expect(more).to_be_hidden()
    await page.fill("#k", "16")
    await page.press("#k", "Enter")
    await expect(page.locator(TILES)).to_have_count(16)
    await more.click()
    await expect(page.locator(TILES)).to_have_count(32)
    await expect(page.locator("#heading")).to_have_text("The 32 nearest")
    await expect(page.locator("#more-status")).to_have_text("16 more results loaded")
    assert await page.locator(TILES).nth(16).evaluate("tile => tile === document.activeElement")
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    await more.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(TILES)).to_have_count(records)
    await expect(more).to_be_hidden()
    assert await keys_shown(page) == expected
    await page.locator(TILES).nth(20).click()
    await expect(page.locator("#query-name")).to_have_text(expected[20])
    await expect(page.locator(TILES)).to_have_count(16)


async def test_samples_have_no_more_results(page: Page) -> None:
    await page.goto("/")
    await expect(page.locator("#heading")).to_have_text("Or start from one of these")
    await expect(page.get_by_role("button", name="Load more")).to_be_hidden()


async def test_invalid_image_is_explained(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    await page.goto("/")
    await page.locator(TILES).first.wait_for()
    await page.set_input_files("#file", tmp_path / "notes.txt")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("Invalid search")
    await expect(alert).to_contain_text("is not an image file in a supported format (JPEG, PNG")
    await expect(alert.get_by_role("button")).to_have_text("Choose another image")
    assert len(await alert.locator("code").inner_text()) == 16
    await expect(page.locator("#results")).to_be_hidden()


async def test_missing_collection_is_explained(page: Page) -> None:
    await page.goto("/#c=gone&key=a")
    await expect(page.get_by_role("alert")).to_contain_text("“gone” does not exist; choose another")
    await page.goto(f"/#c={PHOTOGRAPHS}&key=gone")
    await expect(page.get_by_role("alert")).to_contain_text("Not found")
