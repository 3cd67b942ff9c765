import math

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.attention_transfer import (
    AttentionTransfer,
    attention,
    attention_distance,
)
from pinakes.papers.distillation.classifier import Answer


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)
    return student, torch.randn(2, 5, 4, 4, generator=generator, dtype=torch.float64)


def unit(features: torch.Tensor, power: float) -> list[float]:
    """Q of one image, flat."""
    channels, rows, columns = features.shape
    strength = [
        sum(abs(features[c, i, j].item()) ** power for c in range(channels))
        for i in range(rows)
        for j in range(columns)
    ]
    length = math.sqrt(sum(each**2 for each in strength))
    return [each / length for each in strength]


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize(("side", "divisor"), [(4, 64), (8, 64), (9, 81)])
def test_distance_is_the_papers_formula_written_out(power: float, side: int, divisor: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, side, side, generator=generator, dtype=torch.float64)
    total = sum(
        (said - told) ** 2
        for i in range(2)
        for said, told in zip(unit(student[i], power), unit(teacher[i], power), strict=True)
    )
    assert attention_distance(student, teacher, power).item() == pytest.approx(
        total / (2 * divisor), abs=1e-12
    )


def test_attention_of_maps_of_other_sizes_is_averaged(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = maps
    coarse = functional.avg_pool2d(attention(student)[:, None], 2)
    smaller = teacher[..., :2, :2]
    expected = attention_distance(coarse.sqrt(), smaller)
    torch.testing.assert_close(attention_distance(student, smaller), expected)
    torch.testing.assert_close(attention_distance(smaller, student), expected)


def test_neither_scale_nor_order_nor_sign_of_the_channels_matters(
    maps: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, _ = maps
    same = -7 * student[:, [2, 0, 1]]
    assert attention_distance(student, same).item() == pytest.approx(0, abs=1e-15)


def test_gradients_are_those_of_finite_differences(maps: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = maps
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: attention_distance(s, teacher), student)


def test_features_that_are_all_zero_give_finite_losses_and_gradients() -> None:
    student = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attention_distance(student, torch.rand(1, 3, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]


def test_loss_is_the_cross_entropy_and_beta_times_the_distances_of_all_levels(
    maps: tuple[torch.Tensor, torch.Tensor],
) -> None:
    student, teacher = maps
    logits, label = torch.randn(2, 4, dtype=torch.float64), torch.tensor([3, -1])
    said = Answer([student, 2 * student[..., :2], student.exp()], logits)
    told = Answer([teacher, teacher[..., :2], teacher], logits)
    expected = functional.cross_entropy(logits[:1], label[:1]) + 10 * sum(
        attention_distance(s, t) for s, t in zip(said.levels, told.levels, strict=True)
    )
    torch.testing.assert_close(AttentionTransfer(beta=10.0).loss(said, told, label), expected)


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"power": 0.5}, {"power": float("nan")}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        AttentionTransfer(**options)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("pinakes/tiny_vit", "pinakes/resnet8s2"), ("pinakes/resnet8s2", "pinakes/tiny_vit")],
)
def test_vision_transformers_learn_and_teach(student: str, teacher: str) -> None:
    method = AttentionTransfer(student=student, teacher=teacher, teacher_steps=1)
    method.fit("digits?n=40", steps=2, batch_size=8)
    assert all(torch.isfinite(each).all() for each in method.parameters())
