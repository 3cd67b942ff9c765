"""The pages in a browser; skipped where there is none."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pinakes import collections
from pinakes.method import Method
from tests.collections.conftest import write_noise

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: object) -> Iterator["Page"]:
    """A page of a phone's width that notes what went wrong and what was asked for; at the end nothing must have."""
    opened: Page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=request.param)  # type: ignore[attr-defined]  # of an optional package
    wrong: list[str] = []
    opened.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url)
    )
    yield opened
    opened.close()
    assert not wrong


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight images in two classes, one there twice."""
    for index in range(8):
        write_noise(tmp_path / f"photos/{'ab'[index % 2]}/{index}.png", (40, 60), seed=index % 7)
    return tmp_path / "photos"


def fits(page: "Page") -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_hovering_over_the_map_shows_the_image(
    page: "Page", encoder: Method, photos: Path, tmp_path: Path
) -> None:
    drawn = collections.write_map(collections.embed(encoder, photos), tmp_path / "map.html")
    page.goto(drawn.file.as_uri())
    page.wait_for_function("sheets.every(sheet => sheet.complete && sheet.naturalWidth)")
    box = page.locator("#map").bounding_box()
    assert box is not None
    x, y = page.evaluate("[points.x[3] * zoom + left, points.y[3] * zoom + top_]")
    page.mouse.move(box["x"] + x, box["y"] + y)
    assert page.locator("#card").is_visible()
    assert page.locator("#card figcaption").inner_text() == "a a/6.png"
    seen = page.evaluate(
        "(() => { const c = document.querySelector('#card canvas');"
        " return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size })()"
    )
    assert seen > 50
    page.mouse.move(1, 1)
    assert page.locator("#card").is_hidden()
    assert fits(page)


def test_the_map_can_be_searched_filtered_and_zoomed(
    page: "Page", encoder: Method, photos: Path, tmp_path: Path
) -> None:
    drawn = collections.write_map(collections.embed(encoder, photos), tmp_path / "map.html")
    page.goto(drawn.file.as_uri())
    page.fill("#find", "A/")
    assert page.locator("#found").inner_text() == "4 found"
    page.fill("#find", "")
    page.locator(".legend button").nth(1).click()
    assert [page.evaluate(f"standsOut({index})") for index in (0, 7)] == [False, True]
    page.check("#pictures")
    before = page.evaluate("zoom")
    page.click("#nearer")
    assert page.evaluate("zoom") > before
    page.click("#whole")
    assert page.evaluate("zoom") == pytest.approx(before)


def test_the_page_of_duplicates_fits_a_phone(
    page: "Page", encoder: Method, photos: Path, tmp_path: Path
) -> None:
    found = collections.write_duplicates(
        collections.embed(encoder, photos), tmp_path / "out", threshold=0.9999
    )
    page.goto(found.page.as_uri())
    assert page.locator("article").count() == 1
    assert page.locator("article img").evaluate_all("all => all.every(each => each.naturalWidth > 0)")
    assert fits(page)
