import re

import numpy as np
import pytest
from markupsafe import escape

from pinakes.report.confusion import confusion, shown_at_first
from tests.report.test_page import Page

FIELDS = ("label", "label")


def test_rows_are_the_truth_and_columns_the_answer() -> None:
    truth, answers = [0, 0, 0, 1, 2], [0, 1, 1, 1, 0]
    found = confusion({"label": truth}, {"label": answers}, FIELDS, ["cat", "dog", "cow"])
    assert found is not None
    assert found.counts.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert (found.right, found.total) == (2, 5)
    np.testing.assert_allclose(found.shares().sum(1), 1)
    assert found.worst() == [("cow", "cat", 1, 1), ("cat", "dog", 2, 3)]


def test_samples_without_a_class_are_not_counted() -> None:
    found = confusion({"label": [-1, 1]}, {"label": [0, 1]}, FIELDS, ["cat", "dog"])
    assert found is not None
    assert found.total == 1


@pytest.mark.parametrize(
    ("truth", "scores", "fields"),
    [
        ({"label": [0]}, {"label": [0]}, None),
        ({}, {"label": [0]}, FIELDS),
        ({"label": [0]}, {}, FIELDS),
        ({"label": [0, 1]}, {"label": [0]}, FIELDS),
        ({"label": [0, 1]}, {"label": [0, None]}, FIELDS),
        ({"label": [0, 1]}, {"label": [0, 5]}, FIELDS),
    ],
)
def test_where_classes_are_not_named_there_is_no_matrix(
    truth: dict, scores: dict, fields: tuple | None
) -> None:  # type: ignore[type-arg]  # as JSON holds them
    assert confusion(truth, scores, fields, ["cat", "dog"]) is None


@pytest.mark.parametrize("classes", [2, 10, 30, 100, 300])
def test_a_drawing_says_every_count_and_stays_of_a_size(classes: int) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, classes, 500)
    answers = np.where(rng.random(500) < 0.5, truth, rng.integers(0, classes, 500))
    names = [f"<kind {number}>" for number in range(classes)]
    found = confusion({"label": truth.tolist()}, {"label": answers.tolist()}, FIELDS, names)
    assert found is not None
    text = str(found.svg("method"))
    assert "<kind" not in text
    said = re.findall(r"(?:named right|taken for [^:]*): (\d+) of", text)
    assert sum(map(int, said)) == 500
    (drawing,) = Page(text).all("svg")
    assert 50 < float(drawing["width"] or 0) < 1300
    assert str(escape(names[0])) in text
    assert drawing["aria-label"] == f"method: {found.right} of 500 right"


def test_colour_follows_the_share_of_the_row() -> None:
    found = confusion({"label": [0] * 4 + [1]}, {"label": [0, 0, 0, 1, 1]}, FIELDS, ["a", "b"])
    assert found is not None
    cells = [each for each in Page(str(found.svg("m"))).all("rect") if "fill-opacity" in each]
    assert [float(each["fill-opacity"] or 0) for each in cells] == pytest.approx([0.77, 0.31, 1.0], abs=0.01)
    assert [each["class"] for each in cells] == ["right", "wrong", "right"]


def test_matrices_of_many_classes_are_folded_earlier() -> None:
    assert [shown_at_first(classes, 24) for classes in (2, 10, 20, 100, 1000)] == [24, 24, 12, 2, 1]
