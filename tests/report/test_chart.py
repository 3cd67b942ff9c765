import re

import pytest

from pinakes.report.chart import (
    BOTTOM,
    CHARACTER,
    HEIGHT,
    LEFT,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    Box,
    Point,
    _labels,
    front,
)
from pinakes.report.misses import judge

RANKING = ("score", "label")


def test_front_keeps_what_no_other_beats_in_both() -> None:
    points = [Point("slow", 9, 0.9, None), Point("fast", 1, 0.5, None), Point("worse", 2, 0.4, None)]
    assert [point.slug for point in front(points, higher_is_better=True)] == ["fast", "slow"]
    assert [point.slug for point in front(points, higher_is_better=False)] == ["fast", "worse"]


@pytest.mark.parametrize(("low", "high"), [(0.93, 0.97), (0.0, 1.0), (-3.0, 250.0)])
def test_a_linear_axis_has_a_few_round_ticks(low: float, high: float) -> None:
    ticks = Axis(low, high, 0, 100).ticks()
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)


def test_a_logarithmic_axis_places_equal_ratios_at_equal_distances() -> None:
    axis = Axis(1, 100, 0, 200, logarithmic=True)
    assert axis.place(10) == pytest.approx(100)
    assert axis.ticks() == pytest.approx([1, 2, 5, 10, 20, 50, 100])


def test_an_image_is_as_wrong_as_the_share_of_the_other_class_it_is_not_apart_from() -> None:
    verdicts = judge({"label": [0, 0, 1, 1]}, {"score": [0.1, 0.6, 0.5, 0.9]}, [0, 1, 2, 3], RANKING)
    assert {verdict.index: verdict.wrong for verdict in verdicts} == {0: 0.0, 1: 0.5, 2: 0.5, 3: 0.0}
    assert verdicts[0].wrong == 0.5


def test_without_a_score_or_a_yes_or_no_label_nothing_is_judged() -> None:
    assert judge({"label": [0, 1]}, {}, [0, 1], RANKING) == []
    assert judge({"label": [0, 2]}, {"score": [0.1, 0.2]}, [0, 1], RANKING) == []
    assert judge({"label": [0, 1]}, {"score": [0.1, None]}, [0, 1], RANKING) == []
    assert judge({"label": [0, 1]}, {"score": [0.1, 0.2]}, [0, 1], None) == []


def label_places(svg: str) -> dict[str, tuple[float, float, str]]:
    found = re.findall(r'class="label" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', svg)
    return {name: (float(x), float(y), anchor) for x, y, anchor, name in found}


def test_names_cover_neither_each_other_nor_another_point() -> None:
    crowd = [Point(f"method-number-{n}", 10 + n % 3, 1 + 0.01 * n, None) for n in range(10)]
    horizontal, vertical = (
        Axis(5, 30, LEFT, WIDTH - RIGHT, logarithmic=True),
        Axis(0, 2, HEIGHT - BOTTOM, TOP),
    )
    places = label_places("".join(_labels(crowd, horizontal, vertical)))
    assert set(places) == {point.slug for point in crowd}
    boxes = {}
    for name, (x, y, anchor) in places.items():
        width = CHARACTER * len(name)
        left = x - width if anchor == "end" else x
        boxes[name] = Box(left, y - 4 - LINE / 2, left + width, y - 4 + LINE / 2)
    for name, box in boxes.items():
        assert box.left >= LEFT
        assert box.right <= WIDTH
        for point in crowd:
            if point.slug != name:
                assert not box.meets(boxes[point.slug])
                assert not box.meets(Box.around(horizontal.place(point.x), vertical.place(point.y)))


def test_a_name_that_stands_apart_is_joined_to_its_point() -> None:
    axes = Axis(5, 30, LEFT, WIDTH - RIGHT, logarithmic=True), Axis(0, 2, HEIGHT - BOTTOM, TOP)
    assert "leader" not in "".join(_labels([Point("alone", 10, 1, None)], *axes))
    crowd = [Point(f"method-number-{n}", 10, 1, None) for n in range(8)]
    assert "".join(_labels(crowd, *axes)).count("leader") >= 2
