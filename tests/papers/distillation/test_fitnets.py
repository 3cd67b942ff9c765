import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import pinakes
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.fitnets import (
    FitNets,
    Regressor,
    hint_loss,
    softened_cross_entropy,
)

DATA = "digits?n=40"


@pytest.fixture(scope="module")
def info() -> pinakes.DataInfo:
    return pinakes.load_data(DATA, task="classification").info


class Observed(FitNets):
    """Keeps the names of the parameters that each step moves, and the weights of the teacher."""

    def __init__(self, hint_share: float = 0.5) -> None:
        super().__init__(hint_share=hint_share, teacher_steps=1)
        self.moved: list[set[str]] = []
        self.weights: list[float] = []

    def on_before_optimizer_step(self, _: object) -> None:
        self.moved.append({name for name, each in self.named_parameters() if each.grad is not None})
        self.weights.append(self.teachers_weight())


def test_hint_loss_is_half_the_squared_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    said, told = torch.randn(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    expected = sum(
        (a - b) ** 2 for a, b in zip(said.flatten().tolist(), told.flatten().tolist(), strict=True)
    )
    assert hint_loss(said, told).item() == pytest.approx(0.5 * expected / 3, abs=1e-12)


def test_softened_cross_entropy_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    total = 0.0
    for i in range(4):
        said, told = ([math.exp(each / 3) for each in logits[i].tolist()] for logits in (student, teacher))
        total -= sum(t / sum(told) * math.log(s / sum(said)) for s, t in zip(said, told, strict=True))
    assert softened_cross_entropy(student, teacher, 3.0).item() == pytest.approx(total / 4, abs=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    said, told = torch.randn(2, 2, 3, 2, 2, dtype=torch.float64)
    student, teacher = torch.randn(2, 4, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: hint_loss(s, told), said.requires_grad_())
    assert torch.autograd.gradcheck(lambda s: softened_cross_entropy(s, teacher), student.requires_grad_())


def test_regressor_is_a_convolution_between_maps_of_one_size() -> None:
    torch.manual_seed(0)
    regressor = Regressor(3, 5)
    guided, hint = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    predicted, target = regressor(guided, hint)
    pooled = functional.avg_pool2d(guided, 2)
    weight, bias = regressor.convolution.weight[:, :, 0, 0], regressor.convolution.bias
    assert bias is not None
    expected = torch.einsum("oi,birc->borc", weight, pooled) + bias.view(-1, 1, 1)
    torch.testing.assert_close(predicted, expected.relu())
    torch.testing.assert_close(target, hint)
    assert regressor(hint.new_ones(2, 3, 2, 2), hint.new_ones(2, 5, 4, 4))[1].shape == (2, 5, 2, 2)


@pytest.mark.parametrize(("teacher", "rectified"), [("pinakes/tiny_conv", True), ("pinakes/tiny_vit", False)])
def test_regressor_has_the_range_of_the_hint(info: pinakes.DataInfo, teacher: str, rectified: bool) -> None:
    method = FitNets(teacher=teacher).prepare(info)
    method.configure_optimizers()
    assert isinstance(method.helping, Regressor)
    assert isinstance(method.helping.activation, torch.nn.ReLU) == rectified


def test_the_first_stage_trains_the_layers_up_to_the_guided_one_and_the_second_the_whole_student() -> None:
    method = Observed().fit(DATA, steps=8, batch_size=8)
    student = {name for name, _ in method.named_parameters()}
    deeper = {name for name in student if "stage3" in name or "head" in name}
    regressor = {"helping.convolution.weight", "helping.convolution.bias"}
    assert deeper
    assert method.moved[:4] == [student - deeper | regressor] * 4
    assert method.moved[4:] == [student] * 4


def test_the_teachers_weight_falls_in_a_line_over_the_second_stage() -> None:
    method = Observed().fit(DATA, steps=8, batch_size=8)
    assert method.weights[4:] == pytest.approx([4.0, 3.25, 2.5, 1.75])


def test_the_second_stage_is_equation_2(info: pinakes.DataInfo) -> None:
    generator = torch.Generator().manual_seed(0)
    said, told = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    label = torch.tensor([5, -1, 0, -1])
    expected = functional.cross_entropy(said[[0, 2]], label[[0, 2]]) + 0.5 * softened_cross_entropy(
        said, told, 2.0
    )
    found = FitNets(temperature=2.0, weight=(3.0, 0.5)).loss(Answer([], said), Answer([], told), label)
    torch.testing.assert_close(found, expected)


def test_without_a_share_for_hints_there_are_none() -> None:
    method = Observed(hint_share=0.0).fit(DATA, steps=2, batch_size=8)
    assert method.moved == [{name for name, _ in method.named_parameters()}] * 2


def test_no_regressor_is_left_in_a_fitted_student(tmp_path: Path) -> None:
    method = FitNets(teacher_steps=1).fit(DATA, steps=4, batch_size=8)
    alone = pinakes.create("cross-entropy").fit(DATA, steps=1, batch_size=8)
    assert set(method.state_dict()) == set(alone.state_dict())


@pytest.mark.slow
def test_both_stages_run_in_two_processes() -> None:
    method = FitNets(hint_share=0.5, teacher_steps=1).fit(
        DATA, steps=4, batch_size=8, devices=2, device="cpu"
    )
    assert all(torch.isfinite(each).all() for each in method.parameters())


@pytest.mark.parametrize("cut", [2, 6])
def test_a_run_cut_short_in_either_stage_goes_on_from_its_checkpoint(tmp_path: Path, cut: int) -> None:
    options = {"hint_share": 0.5, "teacher_steps": 1}
    whole = FitNets(**options).fit(DATA, steps=8, batch_size=8)  # type: ignore[arg-type]
    FitNets(**options).fit(DATA, steps=cut, batch_size=8, out=tmp_path)  # type: ignore[arg-type]
    resumed = FitNets(**options).fit(DATA, steps=8, batch_size=8, out=tmp_path, resume=True)  # type: ignore[arg-type]
    assert set(resumed.state_dict()) == set(whole.state_dict())
    assert all(torch.isfinite(each).all() for each in resumed.parameters())


def test_hints_need_to_know_how_long_training_is() -> None:
    with pytest.raises(pinakes.UserError, match="hint_share"):
        FitNets(teacher_steps=1).fit(DATA, steps=10**9, time_limit=1.0, batch_size=8)


@pytest.mark.parametrize(
    "options",
    [
        {"hint_share": 1.0},
        {"hint_share": -0.1},
        {"layer": 0},
        {"temperature": 0.0},
        {"weight": (1.0, -1.0)},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        FitNets(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [("pinakes/tiny_vit", "pinakes/resnet8s2"), ("pinakes/resnet8s2", "pinakes/tiny_vit")],
)
def test_vision_transformers_learn_and_teach(student: str, teacher: str) -> None:
    method = FitNets(hint_share=0.5, student=student, teacher=teacher, teacher_steps=1)
    method.fit(DATA, steps=4, batch_size=8)
    values: list[Tensor] = list(method.state_dict().values())
    assert all(torch.isfinite(each.float()).all() for each in values)
