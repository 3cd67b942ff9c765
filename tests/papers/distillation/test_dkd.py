import math

import pytest
import torch

import pinakes
from pinakes.papers.distillation.base import distillation_divergence
from pinakes.papers.distillation.dkd import (
    DKD,
    decoupled_distillation,
    other_classes_divergence,
    target_class_divergence,
)


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.tensor([0, 4, 2, 2, 1, 3])


def softened(row: torch.Tensor, temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row.tolist()]
    return [power / sum(powers) for power in powers]


def divergence(told: list[float], said: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(told, said, strict=True))


def test_both_parts_are_the_papers_formulas_written_out(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher, label = logits
    target = target_class_divergence(student, teacher, label, 4.0)
    others = other_classes_divergence(student, teacher, label, 4.0)
    for i, true in enumerate(label.tolist()):
        said, told = softened(student[i], 4.0), softened(teacher[i], 4.0)
        binary = divergence([told[true], 1 - told[true]], [said[true], 1 - said[true]])
        rest = divergence(
            [p / (1 - told[true]) for k, p in enumerate(told) if k != true],
            [p / (1 - said[true]) for k, p in enumerate(said) if k != true],
        )
        assert target[i].item() == pytest.approx(binary, abs=1e-12)
        assert others[i].item() == pytest.approx(rest, abs=1e-12)


def test_weighted_by_what_the_teacher_leaves_to_the_others_the_sum_is_kd(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher, label = logits
    rest = 1 - (teacher / 4).softmax(1).gather(1, label[:, None])[:, 0]
    for i in range(len(label)):
        row = slice(i, i + 1)
        decoupled = decoupled_distillation(
            student[row], teacher[row], label[row], alpha=1.0, beta=rest[i].item(), temperature=4.0
        )
        torch.testing.assert_close(
            decoupled, distillation_divergence(student[row], teacher[row], 4.0), rtol=1e-10, atol=1e-12
        )


def test_a_teacher_sure_beyond_rounding_gives_finite_losses_and_gradients() -> None:
    student = torch.tensor([[100.0, -100.0, -100.0]], requires_grad=True)
    teacher = torch.tensor([[300.0, 0.0, -300.0]])
    decoupled_distillation(student, teacher, torch.tensor([0]), temperature=1.0).backward()
    assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]


def test_gradients_are_those_of_finite_differences(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher, label = logits
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: decoupled_distillation(s, teacher, label), student)


def test_images_without_a_label_are_left_out_of_the_loss(logits) -> None:  # type: ignore[no-untyped-def]
    from pinakes.papers.distillation.base import Answer

    student, teacher, label = logits
    partly = label.clone()
    partly[:3] = -1
    method = DKD()
    torch.testing.assert_close(
        method.loss(Answer([], student), Answer([], teacher), partly),
        method.loss(Answer([], student[3:]), Answer([], teacher[3:]), label[3:]),
    )


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"beta": -0.1}, {"temperature": 0.0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DKD(**options)
