import math

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.base import distillation_divergence
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.multi_level_logit import (
    MultiLevelLogit,
    batch_alignment,
    class_alignment,
    instance_alignment,
    level_scale,
    softened,
)

TEMPERATURES = (2.0, 5.0)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher


def probabilities(logits: torch.Tensor, temperature: float) -> list[list[float]]:
    powers = [[math.exp(value / temperature) for value in row] for row in logits.tolist()]
    return [[power / sum(row) for power in row] for row in powers]


def distance_of_products(one: list[list[float]], other: list[list[float]]) -> float:
    """||A A^T - B B^T||_F^2, entry by entry."""
    return sum(
        (
            sum(p * q for p, q in zip(one[a], one[b], strict=True))
            - sum(p * q for p, q in zip(other[a], other[b], strict=True))
        )
        ** 2
        for a in range(len(one))
        for b in range(len(one))
    )


def columns(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def test_predictions_are_softened_by_each_temperature(logits) -> None:  # type: ignore[no-untyped-def]
    found = softened(logits[0], TEMPERATURES).exp()
    for k, temperature in enumerate(TEMPERATURES):
        expected = torch.tensor(probabilities(logits[0], temperature), dtype=torch.float64)
        torch.testing.assert_close(found[k], expected)


def test_the_instance_level_is_the_sum_of_kd_over_temperatures(logits) -> None:  # type: ignore[no-untyped-def]
    expected = sum(distillation_divergence(*logits, temperature) for temperature in TEMPERATURES)
    torch.testing.assert_close(instance_alignment(*logits, TEMPERATURES), expected)


def test_the_batch_level_compares_every_two_images(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher = logits
    expected = sum(
        distance_of_products(probabilities(teacher, t), probabilities(student, t)) / 6 for t in TEMPERATURES
    )
    assert batch_alignment(student, teacher, TEMPERATURES).item() == pytest.approx(expected, abs=1e-12)


def test_the_class_level_compares_every_two_classes(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher = logits
    expected = sum(
        distance_of_products(columns(probabilities(teacher, t)), columns(probabilities(student, t))) / 4
        for t in TEMPERATURES
    )
    assert class_alignment(student, teacher, TEMPERATURES).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alignment", [instance_alignment, batch_alignment, class_alignment])
def test_gradients_are_those_of_finite_differences_and_equal_logits_cost_nothing(logits, alignment) -> None:  # type: ignore[no-untyped-def]
    student, teacher = logits
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: alignment(s, teacher), student)
    assert alignment(teacher, teacher + 3).item() == pytest.approx(0, abs=1e-12)


def test_the_loss_weighs_labels_and_levels(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher = logits
    label = torch.tensor([0, 3, -1, 2, -1, 1])
    method = MultiLevelLogit(
        temperatures=TEMPERATURES, ce_weight=0.3, kd_weight=0.7, instance=2.0, batch=3.0, classes=5.0
    )
    told = (
        2 * instance_alignment(student, teacher, TEMPERATURES)
        + 3 * batch_alignment(student, teacher, TEMPERATURES)
        + 5 * class_alignment(student, teacher, TEMPERATURES)
    )
    torch.testing.assert_close(
        method.loss(Answer([], student), Answer([], teacher), label),
        0.3 * labelled_cross_entropy(student, label) + 0.7 * told,
    )


def test_levels_are_scaled_to_the_setting_that_their_weights_are_for() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 32, 10, generator=generator, dtype=torch.float64)
    label = torch.arange(32) % 10
    answers = Answer([], student), Answer([], teacher)
    # 64 / 32 * 10 / 100
    stated = MultiLevelLogit(batch=0.2, classes=0.04).loss(*answers, label)
    torch.testing.assert_close(MultiLevelLogit().loss(*answers, label), stated)
    assert level_scale(64, 200) == 1


def test_sharp_predictions_cost_as_much_at_every_level_whatever_the_number_of_classes() -> None:
    def costs(classes: int) -> list[float]:
        # the teacher is sure of one class, the student of another, and every class is as frequent
        told = 100 * functional.one_hot(torch.arange(200) % classes, classes).double()
        said = torch.zeros_like(told)
        scale = level_scale(200, classes)
        return [
            scale * batch_alignment(said, told, (1.0,)).item(),
            scale**2 * class_alignment(said, told, (1.0,)).item(),
        ]

    assert costs(10) == pytest.approx(costs(50), rel=0.25)


def test_at_one_temperature_and_the_instance_level_alone_it_is_kd(logits) -> None:  # type: ignore[no-untyped-def]
    from pinakes.papers.distillation.kd import KD

    answers = [Answer([], each) for each in logits]
    label = torch.tensor([0, 3, 1, 2, 2, 1])
    method = MultiLevelLogit(temperatures=(4.0,), batch=0.0, classes=0.0)
    torch.testing.assert_close(method.loss(*answers, label), KD().loss(*answers, label))


@pytest.mark.parametrize(
    "options",
    [
        {"temperatures": ()},
        {"temperatures": (2.0, 0.0)},
        {"ce_weight": -1.0},
        {"kd_weight": -1.0},
        {"instance": -1.0},
        {"batch": -1.0},
        {"classes": -1.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        MultiLevelLogit(**options)
