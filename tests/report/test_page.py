import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pinakes.catalogue import Paper
from pinakes.errors import UserError
from pinakes.lab.cells import SCORES, TRACEBACK, CellResult, Picture, write_cell
from pinakes.lab.comparison import Comparison, Shown
from pinakes.lab.pictures import to_webp
from pinakes.lab.ranking import rank
from pinakes.report import write_report
from pinakes.tasks.base import Metric

METRICS = [Metric("auroc", "AUROC", "area"), Metric("error", "error", "mistakes", higher_is_better=False)]
NASTY = '<script src="https://example.com/x.js"></script>'
LOADING = ("src", "srcset", "href", "poster", "data", "action", "background", "xlink:href")


class Page(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def picture(name: str, caption: str, wide: int = 1) -> tuple[Picture, bytes]:
    width, height, content = to_webp(np.full((8, 8 * wide, 3), 128, np.uint8))
    return Picture(name, caption, width, height), content


def paper(slug: str) -> Paper:
    return Paper(slug, "T", "S", "CVPR 2020", "arXiv:2001.00001", "anomaly", "m:C", "")


def comparison(
    folder: Path, scores: dict[str, list[list[float]]], *, failing: str = "", reason: str = "x", wide: int = 0
) -> str:
    """Makes the folder of a comparison by hand, and its report; `scores` are of four images, by method and seed.

    With `wide` each method has a second picture of every image, so many times as wide as high.
    """
    truth = [0, 0, 1, 1]
    drawn, content = picture("samples/0.webp", "truth")
    sheet, _ = picture("samples/0.webp", "")
    second = (picture("0.webp", "from noise", wide)[0],) if wide else ()
    results = []
    for slug, seeds in scores.items():
        for seed, values in enumerate(seeds):
            metrics = {"auroc": values[3] - values[0], "error": math.nan}
            result = CellResult(
                slug, seed, "k", metrics=metrics, groups={"crack": {**metrics, "images": 2.0}}, fit_seconds=2.0,
                predict_milliseconds=3.0 + seed, options={"depth": 3},
                pictures={i: (picture(f"{i}.webp", f"score {values[i]}")[0], *second) for i in range(4)},
            )  # fmt: skip
            files = {f"{i}.webp": content for i in range(4)} | {SCORES: f'{{"score": {values}}}'.encode()}
            write_cell(folder / f"cells/{slug}/seed-{seed}", result, files)
            results.append(result)
    if failing:
        results.append(CellResult(failing, 0, "k", error=reason))
        write_cell(folder / f"cells/{failing}/seed-0", results[-1], {TRACEBACK: b"Traceback: line 1"})
    papers = [paper(slug) for slug in [*scores, *filter(None, [failing])]]
    rank("anomaly", "parts", METRICS, papers, results, folder).save(folder)
    (folder / "samples").mkdir()
    (folder / drawn.file).write_bytes(content)
    (folder / "truth.json").write_text(f'{{"label": {truth}, "kind": ["good", "good", "crack", "crack"]}}')
    kinds = {"good": 2, "crack": 2}
    data = {
        "spec": "parts", "layout": "a layout", "fingerprint": "abc", "channels": 3, "size": [8, 8],
        "classes": ["normal", "anomalous"], "native_sizes": [{"height": 9, "width": 7, "count": 4}],
        "splits": {"test": {"count": 4, "counted": 4, "classes": {}, "kinds": kinds}},
        "skipped": [{"path": "cut.png", "reason": NASTY}],
    }  # fmt: skip
    shown = tuple(Shown(i, f"test/{i}.png", "crack" if truth[i] else "good", (drawn,)) for i in range(4))
    Comparison(
        "anomaly", "Anomaly detection", "mvtec:/data/parts", data, sheet, shown, tuple(scores), (0,), "pinakes it",
        "pinakes.compare()", {"torch": "2"}, "a machine", "today",
    ).save(folder)  # fmt: skip
    return write_report(folder).read_text()


GOOD, BAD = [0.1, 0.2, 0.8, 0.9], [0.5, 0.9, 0.3, 0.6]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    text = comparison(tmp_path, {"good": [GOOD], "bad": [BAD]}, failing="broken", reason=NASTY)
    page = Page(text)
    for tag, attributes in page.elements:
        for name in set(attributes) & set(LOADING):
            wanted = ("data:image/", "#", "https://arxiv.org/") if tag == "a" else ("data:image/", "#")
            assert (attributes[name] or "").startswith(wanted), (tag, attributes)
    assert page.all("link") == page.all("iframe") == page.all("object") == []
    assert [attributes for attributes in page.all("script") if attributes] == []
    assert not re.search(r"@import|url\((?!#)", text)


def test_text_from_data_and_methods_is_escaped(tmp_path: Path) -> None:
    text = comparison(tmp_path, {"good": [GOOD]}, failing="broken", reason=NASTY)
    assert NASTY not in text
    assert text.count("&lt;script src=") >= 2


def test_every_picture_says_what_it_shows(tmp_path: Path) -> None:
    page = Page(comparison(tmp_path, {"good": [GOOD], "bad": [BAD]}))
    pictures = page.all("img")
    assert len(pictures) >= 4 * 3
    assert all(attributes.get("alt") for attributes in pictures)
    assert all(attributes.get("aria-label") for attributes in page.all("svg"))


def test_pictures_of_a_method_are_together_and_wide_ones_take_three_columns(tmp_path: Path) -> None:
    text = re.sub(r">\s+<", "><", comparison(tmp_path, {"good": [GOOD], "bad": [BAD]}, wide=6))
    first = text.split('<div class="strip"')[1]
    assert first.startswith(' role="group" aria-label="test/0.png" style="--figures: 9">')
    of_methods = [part.split("</div>")[0] for part in first.split("<div>")[1:3]]
    for slug, part in zip(("good", "bad"), of_methods, strict=True):
        assert part.count("<figure") == 2
        assert part.count(f"<b>{slug}</b>") == 1
        assert part.count('style="--columns: 3"') == 1


def test_the_lead_and_its_interval_are_told(tmp_path: Path) -> None:
    three = [[0.1, 0.2, 0.8, 0.9 + 0.001 * seed] for seed in range(3)]
    text = comparison(tmp_path, {"good": three, "bad": [BAD] * 3})
    assert "good leads with AUROC" in text
    assert "the lead is more than chance between seeds" in text


def test_one_seed_is_said_to_be_one(tmp_path: Path) -> None:
    text = comparison(tmp_path, {"good": [GOOD], "bad": [BAD]})
    assert "This is one seed" in text
    assert "there are no intervals" in text


def test_misses_and_hits_are_by_rank_among_the_other_class(tmp_path: Path) -> None:
    text = re.sub(r"\s+", " ", comparison(tmp_path, {"good": [GOOD], "bad": [BAD]}))
    assert "0.900, above 100 % of the anomalous ones" in text
    assert "0.300, below 100 % of the normal ones" in text
    assert "every one of these images is on its side" in text


def test_failed_cells_are_listed_with_their_reason(tmp_path: Path) -> None:
    text = comparison(tmp_path, {"good": [GOOD]}, failing="broken", reason="RuntimeError: no luck")
    assert "RuntimeError: no luck" in text
    assert "Traceback: line 1" in text


def test_a_comparison_in_which_all_failed_has_a_report(tmp_path: Path) -> None:
    assert "No method gave a result." in comparison(tmp_path, {}, failing="broken")


def test_metrics_that_are_not_a_number_are_a_dash(tmp_path: Path) -> None:
    text = comparison(tmp_path, {"good": [GOOD]})
    assert '<td data-value="nan"><span>–</span></td>' in text
    assert not re.search(r">\s*nan", text)


def test_what_was_left_out_and_how_to_repeat_it_are_there(tmp_path: Path) -> None:
    text = comparison(tmp_path, {"good": [GOOD]})
    assert "cut.png" in text
    assert "pinakes it" in text
    assert "depth" in text


def test_a_folder_without_a_comparison_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        write_report(tmp_path)
