import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from pinakes.catalogue import papers, shelves

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("material", reason="the extra docs is not installed: pip install -e '.[docs]'")

ASSETS = {"src", "srcset", "data", "poster", "data-src"}
ORDINARY = {"a", "area"}


class Links(HTMLParser):
    """The links, assets and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.assets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name == "href" and value is not None:
                (self.links if tag in ORDINARY else self.assets).add(value)
            elif name in ASSETS and value is not None:
                self.assets.update(part.split()[0] for part in value.split(",")[:1] if part.split())
        if tag == "link" and dict(attrs).get("rel") == "canonical":
            self.assets.discard(dict(attrs)["href"] or "")


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def is_elsewhere(address: str) -> bool:
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme in ("http", "https")


def test_every_paper_has_a_page_that_shows_idea_options_and_claims(site: Path) -> None:
    for paper in papers():
        text = (site / "papers" / paper.shelf / f"{paper.slug}.html").read_text(encoding="utf-8")
        for heading in ("the-idea", "how-to-call-it", "what-differs-from-the-paper", "verdict", "cost"):
            assert f'id="{heading}"' in text, f"{paper.slug}: {heading}"
        assert f"pinakes fit {paper.slug}" in re.sub(r"<[^>]+>", "", text)


def test_equations_are_mathml(site: Path) -> None:
    text = (site / "papers" / "anomaly" / "patchcore.html").read_text(encoding="utf-8")
    assert text.count("<math ") >= 3
    assert "\\frac" not in text


def test_nothing_is_loaded_from_other_hosts(pages: dict[Path, Links], site: Path) -> None:
    found = {path.name: [each for each in page.assets if is_elsewhere(each)] for path, page in pages.items()}
    assert not {name: each for name, each in found.items() if each}
    for sheet in site.rglob("*.css"):
        asked = re.findall(
            r"@import[^;]*|url\(\s*['\"]?((?:https?:)?//[^)]*)", sheet.read_text(encoding="utf-8")
        )
        assert not asked, sheet


def test_no_internal_link_is_broken(pages: dict[Path, Links], site: Path) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links | page.assets:
            parts = urlsplit(link)
            if is_elsewhere(link) or parts.scheme in ("data", "mailto", "javascript"):
                continue
            start = site if parts.path.startswith("/") else path.parent
            target = (start / unquote(parts.path).lstrip("/")).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}")
            elif parts.fragment and target.suffix == ".html":
                anchors = pages[site / target.relative_to(site.resolve())].anchors
                if unquote(parts.fragment) not in anchors:
                    broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


@pytest.fixture
def page(browser: "Browser", address: str) -> Iterator["Page"]:
    """A page that notes what went wrong; at the end nothing must have."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    opened.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("response", lambda got: wrong.append(f"{got.url}: {got.status}") if got.status >= 400 else None)
    opened.on(
        "request",
        lambda request: (
            None if request.url.startswith((address, "data:", "blob:")) else wrong.append(request.url)
        ),
    )
    yield opened
    opened.close()
    assert not wrong


def test_search_finds_a_paper(page: "Page", address: str) -> None:
    page.goto(f"{address}/index.html")
    page.click(".md-search__input")
    page.keyboard.type("coreset")
    results = page.locator(".md-search-result__link")
    found = results.filter(has_text=re.compile(r"^\s*Towards Total Recall")).first
    found.wait_for(timeout=15_000)
    found.click()
    page.wait_for_url("**/papers/anomaly/patchcore.html*")


def test_the_table_filters_sorts_and_remembers_in_the_address(page: "Page", address: str) -> None:
    page.goto(f"{address}/papers/index.html")
    rows = page.locator("[data-papers] tbody tr:visible")
    assert rows.count() == len(papers())
    shelf = next(iter(shelves()))
    page.select_option("[data-filter=shelf]", shelf)
    assert rows.count() == len(papers(shelf=shelf))
    page.fill("[data-words]", "coreset")
    assert 1 <= rows.count() < len(papers())
    page.reload()
    assert page.input_value("[data-words]") == "coreset"
    page.fill("[data-words]", "no such paper")
    assert page.locator("[data-nothing]").is_visible()
    page.click("[data-reset]")
    assert rows.count() == len(papers())
    page.click("[data-papers] th button >> nth=0")
    slugs = page.locator("[data-papers] tbody b").all_inner_texts()
    assert slugs == sorted(slugs)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone(page: "Page", address: str, scheme: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]  # one of the two words it takes
    for path in ("index", "papers/index", "papers/anomaly/index", "papers/anomaly/patchcore", "verdicts"):
        page.goto(f"{address}/{path}.html")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
