"""Which pixels are missing, counted and compared with a naive loop."""

from itertools import pairwise

import pytest
import torch

from pinakes.nn.holes import HOLES, drawn_hole, strokes


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", HOLES)
@pytest.mark.parametrize("size", [(4, 4), (8, 17), (32, 32)])
def test_some_pixels_are_missing_and_some_are_not(kind: str, size: tuple[int, int]) -> None:
    for seed in range(30):
        hole = drawn_hole(kind, size, seeded(seed))
        assert hole.shape == size
        assert hole.any()
        assert not hole.all()


@pytest.mark.parametrize("kind", HOLES)
def test_the_same_generator_draws_the_same_hole(kind: str) -> None:
    assert torch.equal(drawn_hole(kind, (16, 20), seeded(3)), drawn_hole(kind, (16, 20), seeded(3)))


@pytest.mark.parametrize("kind", ["wide", "narrow", "box", "half"])
def test_other_generators_draw_other_holes(kind: str) -> None:
    drawn = {drawn_hole(kind, (32, 32), seeded(seed)).numpy().tobytes() for seed in range(20)}
    assert len(drawn) == (4 if kind == "half" else 20)


@pytest.mark.parametrize(
    ("kind", "share"), [("half", 1 / 2), ("surround", 3 / 4), ("lines", 1 / 2), ("every_second", 3 / 4)]
)
def test_the_share_of_missing_pixels_is_as_the_kind_says(kind: str, share: float) -> None:
    assert drawn_hole(kind, (16, 24), seeded(1)).double().mean() == share


def test_wide_strokes_are_wider_than_narrow_ones() -> None:
    def missing_squares(kind: str) -> float:
        holes = torch.stack([drawn_hole(kind, (64, 64), seeded(seed)) for seed in range(20)]).float()
        return float(-torch.nn.functional.max_pool2d(-holes, 7, 1).mean())

    assert missing_squares("wide") > 20 * missing_squares("narrow")


def test_a_stroke_is_every_pixel_near_the_line() -> None:
    points = torch.tensor([[2.0, 3.0], [10.0, 8.0], [4.0, 12.0]])
    expected = torch.zeros(14, 15, dtype=torch.bool)
    for row in range(14):
        for column in range(15):
            along = [
                a + share * (b - a)
                for a, b in pairwise(points)
                for share in torch.linspace(0, 1, 2001)[:, None]
            ]
            gap = (torch.stack(along) - torch.tensor([row, column])).norm(dim=1).min()
            expected[row, column] = gap <= 1.4
    assert torch.equal(strokes((14, 15), points, 2.8), expected)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of wide"):
        drawn_hole("round", (8, 8), seeded(0))
    with pytest.raises(ValueError, match="size: expected 4 pixels"):
        drawn_hole("box", (3, 8), seeded(0))
