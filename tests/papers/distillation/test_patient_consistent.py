import math
from typing import Any

import pytest
import torch

import pinakes
from pinakes.lab.duel import Lab
from pinakes.lab.trial import Budget, Pair, Trial
from pinakes.papers.distillation.base import CLAIM_PLAN
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.patient_consistent import (
    LONG,
    SHORT,
    PatientConsistent,
    inception_crop,
    matching_view,
    patience_widens_the_lead,
)

SIDE = 64


def ramps(count: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """Images whose channels hold the place of each pixel's centre, across and down, in shares of the sides."""
    across = ((torch.arange(width, dtype=torch.float64) + 0.5) / width).expand(height, width)
    down = ((torch.arange(height, dtype=torch.float64) + 0.5) / height)[:, None].expand(height, width)
    return torch.stack([across, down]).expand(count, 2, height, width)


def sides(crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Width and height of crops of ramps as shares of the image, read off between two pixels inside."""
    _, _, height, width = crops.shape
    middle = height // 2, width // 2
    wide = (crops[:, 0, middle[0], middle[1] + 1] - crops[:, 0, middle[0], middle[1]]) * width
    tall = (crops[:, 1, middle[0] + 1, middle[1]] - crops[:, 1, middle[0], middle[1]]) * height
    return wide, tall


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (96, 48)])
def test_a_crop_is_a_rectangle_inside_the_image_of_an_allowed_area_and_proportion(
    height: int, width: int
) -> None:
    torch.manual_seed(0)
    crops = inception_crop(ramps(500, height, width), 0.05)
    wide, tall = sides(crops)
    area, proportion = wide * tall, wide * width / (tall * height)
    assert area.min() > 0.05 - 1e-9
    assert area.max() <= 1 + 1e-9
    assert proportion.min() > 3 / 4 - 1e-9
    assert proportion.max() < 4 / 3 + 1e-9
    assert area.min() < 0.1
    for channel, side, count in ((0, wide, width), (1, tall, height)):
        place = crops[:, channel].mean((1, 2))
        assert (place - side / 2 > -0.5 / count).all()
        assert (place + side / 2 < 1 + 0.5 / count).all()


def test_a_crop_holds_the_pixels_of_its_rectangle() -> None:
    torch.manual_seed(1)
    crops = inception_crop(ramps(20), 0.05)
    wide, tall = sides(crops)
    steps = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE - 0.5
    for i in range(20):
        centre = crops[i, :, SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1].mean((1, 2))
        expected = (centre[0] + wide[i] * steps)[None].expand(SIDE, SIDE)
        inside = (expected > 1 / SIDE) & (expected < 1 - 1 / SIDE)
        torch.testing.assert_close(crops[i, 0][inside], expected[inside])
        expected = (centre[1] + tall[i] * steps)[:, None].expand(SIDE, SIDE)
        inside = (expected > 1 / SIDE) & (expected < 1 - 1 / SIDE)
        torch.testing.assert_close(crops[i, 1][inside], expected[inside])


@pytest.mark.parametrize("area_min", [0.0, -1.0, 1.1])
def test_an_impossible_area_is_refused(area_min: float) -> None:
    with pytest.raises(ValueError, match="area_min"):
        inception_crop(torch.rand(1, 3, 32, 32), area_min)


def test_a_matching_view_blends_crops_of_two_images_of_the_batch() -> None:
    image = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    shares = []
    for seed in range(200):
        torch.manual_seed(seed)
        view = matching_view(image)
        share = (view[1, 0, 0, 0] - 1).item()
        expected = torch.tensor([share + (1 - share) * 4, 1 + share, 2 + share, 3 + share])
        torch.testing.assert_close(view, expected.view(4, 1, 1, 1).expand(4, 3, 32, 32))
        shares.append(share)
    assert 0.5 <= min(shares) < 0.52
    assert 0.98 < max(shares) <= 1
    assert sum(shares) / len(shares) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("views", ["matching", "consistent"])
def test_teacher_and_student_are_shown_the_same(views: str) -> None:
    image = torch.rand(4, 3, 32, 32)
    student, teacher = PatientConsistent(views=views).shown(image)
    assert torch.equal(student, teacher)
    assert not torch.equal(student, image)


def test_independent_views_are_two_crops() -> None:
    student, teacher = PatientConsistent(views="independent").shown(ramps(50).float())
    assert not torch.isclose(sides(student)[0].abs(), sides(teacher)[0].abs(), atol=1e-4).any()


def test_a_fixed_teacher_is_shown_whole_images() -> None:
    image = torch.rand(4, 3, 32, 32)
    student, teacher = PatientConsistent(views="fixed").shown(image)
    assert torch.equal(teacher, image)
    assert not torch.equal(student, image)


def test_crops_are_as_large_as_asked_for() -> None:
    student, _ = PatientConsistent(views="consistent", area_min=0.7).shown(ramps(200).float())
    wide, tall = sides(student)
    assert (wide.abs() * tall.abs()).min() > 0.7 - 1e-4


def test_the_loss_is_the_divergence_written_out_and_knows_no_label() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    temperature, expected = 2.5, 0.0
    for said, told in zip(student.tolist(), teacher.tolist(), strict=True):
        q = [math.exp(value / temperature) for value in said]
        p = [math.exp(value / temperature) for value in told]
        for one, other in zip(p, q, strict=True):
            expected += one / sum(p) * math.log((one / sum(p)) / (other / sum(q))) / 5
    method = PatientConsistent(temperature=temperature)
    for label in (torch.arange(5) % 4, torch.full((5,), -1)):
        loss = method.loss(Answer([], student), Answer([], teacher), label)
        assert loss.item() == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_the_student_learns_what_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    method = PatientConsistent().prepare(pinakes.DataInfo(3, (32, 32), ("a", "b")))
    images = torch.rand(2, 2, 3, 32, 32)
    monkeypatch.setattr(method, "shown", lambda _: (images[0], images[1]))
    label = torch.tensor([0, 1])
    found = method.training_step({"image": torch.rand(2, 3, 32, 32), "label": label}, 0)
    expected = method.loss(method.answers(images[0]), method.taught(images[1]), label)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"views": "same"}, {"area_min": 0.0}])
def test_options_out_of_range_are_refused_by_name(option: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(option))):
        PatientConsistent(**option)  # type: ignore[arg-type]


def test_the_claim_about_patience_holds_the_long_lead_against_the_short_one() -> None:
    class Told(Lab):
        """Says what the two sides reached, by the length of the schedule."""

        def duel(self, **settings: Any) -> Trial:
            steps = settings["steps"]
            sides = settings["ours"](), settings["baseline"]()
            assert [side.views for side in sides] == ["matching", "fixed"]
            assert [side.teacher_steps for side in sides] == [2 * CLAIM_PLAN["steps"]] * 2
            pairs = tuple(Pair(seed, 0.001 * steps + seed, 0.1 + seed) for seed in self.seeds)
            return Trial("Accuracy", pairs, budget=Budget("steps", steps, settings["batch_size"]))

    trial = patience_widens_the_lead(Told(seeds=[3, 5], device="cpu"))
    assert isinstance(trial, Trial)
    assert [pair.seed for pair in trial.pairs] == [3, 5]
    assert [pair.ours for pair in trial.pairs] == pytest.approx([0.001 * LONG - 0.1] * 2)
    assert [pair.baseline for pair in trial.pairs] == pytest.approx([0.001 * SHORT - 0.1] * 2)
    assert trial.budget == Budget("steps", LONG, 32)
