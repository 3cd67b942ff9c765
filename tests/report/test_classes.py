"""The report of a task that names classes."""

import re
from pathlib import Path

import pytest

import pinakes
from pinakes.lab.intervals import Estimate
from pinakes.lab.leaderboard import Column, Leaderboard, Row
from pinakes.report.misses import BY_CLASS, manner_of, sides
from pinakes.report.page import _column_of_groups
from pinakes.tasks import get
from tests.report.test_page import Page

CLASSES = ("cat", "dog")
TRUTH = {"label": [0, 0, 1, 1, 0]}
SCORES: dict[str, list[float | None]] = {"label": [0, 1, 1, 0, 1], "confidence": [0.9, 0.6, 0.7, 0.8, 0.99]}


def test_the_surest_errors_and_the_surest_right_answers_come_first() -> None:
    task = get("classification")
    assert manner_of(task) is BY_CLASS
    found = sides(task, TRUTH, SCORES, [0, 1, 2, 3], CLASSES)
    assert found is not None
    assert [(each.index, each.words) for each in found.wrong] == [
        (3, "taken for cat, confidence 0.800"),
        (1, "taken for dog, confidence 0.600"),
    ]
    assert [(each.index, each.words) for each in found.right] == [
        (0, "confidence 0.900"),
        (2, "confidence 0.700"),
    ]


def test_images_without_a_known_class_are_neither_right_nor_wrong() -> None:
    found = sides(get("classification"), {"label": [-1] * 5}, SCORES, range(5), CLASSES)
    assert found is not None
    assert found.wrong == found.right == []


def test_without_confidence_nothing_is_told() -> None:
    assert sides(get("classification"), TRUTH, {"label": [0] * 5}, [0], CLASSES) is None


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("compared")
    pinakes.compare(
        "classification", "digits?n=40", "cross-entropy", seeds=1, steps=2, out=folder, device="cpu"
    )
    return (folder / "report.html").read_text()


def test_there_is_a_matrix_and_hits_and_misses(report: str) -> None:
    drawings = [each for each in Page(report).all("svg") if each.get("class") == "confusion"]
    assert len(drawings) == 1
    assert re.fullmatch(r"cross-entropy: \d+ of 40 right", drawings[0]["aria-label"] or "")
    assert re.search(r"taken for \d, confidence 0\.\d", report)
    assert "with the highest confidence" in report
    assert "Accuracy by kind" in report


def test_only_one_picture_of_each_image_is_among_hits_and_misses(report: str) -> None:
    part = report[report.index('id="misses"') :]
    part = part[: part.index("</section>")]
    assert len(Page(part).all("img")) == len(Page(part).all("figure")) > 0


def board(columns: list[str], groups: dict[str, float]) -> Leaderboard:
    row = Row("method", seeds=(0,), groups={"wheat": {name: Estimate((v,)) for name, v in groups.items()}})
    return Leaderboard("segmentation", "masks:fields", tuple(Column(c, c, "") for c in columns), (row,))


def test_a_metric_that_is_stated_by_group_alone_is_shown_by_group() -> None:
    found = _column_of_groups(board(["miou", "class_accuracy"], {"class_accuracy": 0.5, "iou": 0.4}))
    assert found is not None
    assert (found.name, found.label) == ("iou", "IoU")


def test_the_headline_by_group_comes_first() -> None:
    found = _column_of_groups(board(["miou", "accuracy"], {"iou": 0.4, "miou": 0.4}))
    assert found is not None
    assert found.name == "miou"


def test_groups_without_a_known_metric_are_not_shown(tmp_path: Path) -> None:
    assert _column_of_groups(board(["miou"], {"images": 3.0})) is None
