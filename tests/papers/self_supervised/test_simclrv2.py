from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pinakes
from pinakes.papers.self_supervised.simclrv2 import SimCLRv2, distillation_loss, labels_loss

INFO = pinakes.DataInfo(3, (32, 32), ("a", "b", "c"))
FEW = "digits?n=60&labelled=0.2"


def batch_of(labels: list[int]) -> dict[str, torch.Tensor]:
    return {"image": torch.rand(len(labels), 3, 32, 32), "label": torch.tensor(labels)}


class Watched(SimCLRv2):
    """Notes at each step which parts have a gradient and the learning rate, and the numbers of the teacher."""

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.seen: list[list[bool]] = []
        self.rates: list[float] = []
        self.teachers: list[torch.Tensor] = []

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        parts = (
            self.encoder.network.stem[0],
            self.head[0],
            self.head[-2],
            self.classifier,
            self.student.head,
        )
        self.seen.append([each.weight.grad is not None for each in parts])
        self.rates.append(optimizer.param_groups[0]["lr"])
        numbers = [*self.encoder.state_dict().values(), *self.head.state_dict().values()]
        self.teachers.append(torch.cat([each.flatten().double() for each in numbers]))


def test_distillation_is_the_cross_entropy_of_softened_answers() -> None:
    student, teacher = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said, told = (student / 0.4).softmax(1), (teacher / 0.4).softmax(1)
    expected = -sum(float(told[i, y] * said[i, y].log()) for i in range(5) for y in range(3)) / 5
    assert distillation_loss(student, teacher, 0.4).item() == pytest.approx(expected, abs=1e-10)


def test_no_gradient_flows_to_the_teacher() -> None:
    student, teacher = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    distillation_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_images_without_a_label_are_left_out() -> None:
    logits = torch.randn(4, 3)
    found = labels_loss(logits, torch.tensor([-1, 2, -1, 0]))
    expected = nn.functional.cross_entropy(logits[[1, 3]], torch.tensor([2, 0]))
    torch.testing.assert_close(found, expected)
    assert labels_loss(logits, torch.full((4,), -1)) == 0


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_classes_are_told_from_the_layer_of_the_head_that_is_asked_for(layer: int) -> None:
    method = SimCLRv2(tune_from=layer).prepare(INFO).eval()
    image = torch.rand(2, 3, 32, 32)
    hidden = method.pooled(image)
    for place in range(layer):
        linear, norm, activation = method.head[3 * place : 3 * place + 3]
        assert [type(each) for each in (linear, norm, activation)] == [nn.Linear, nn.BatchNorm1d, nn.ReLU]
        hidden = activation(norm(linear(hidden)))
    torch.testing.assert_close(method.teacher_logits(image), method.classifier(hidden))


def test_the_head_has_three_layers_and_ends_with_a_normalisation() -> None:
    head = SimCLRv2(projection=16).prepare(INFO).head
    assert [each.out_features for each in head if isinstance(each, nn.Linear)] == [64, 64, 16]
    assert isinstance(head[-1], nn.BatchNorm1d)


def test_the_stages_learn_from_views_from_labels_and_from_the_teacher() -> None:
    method = Watched(pre_share=0.25, tune_share=0.25).fit(FEW, steps=8, batch_size=8)
    views, labels, student = [True] * 3 + [False] * 2, [True, True, False, True, False], [False] * 4 + [True]
    assert method.seen == [views] * 2 + [labels] * 2 + [student] * 4
    assert method.rates[0] < method.rates[1]
    assert method.rates[2] < method.rates[3]
    assert method.rates[4] < method.rates[5] > method.rates[7]
    first, *others = method.teachers[4:]
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(method.teachers[3], first)


def test_fine_tuning_sees_labelled_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.append(label)
        return labels_loss(logits, label)

    monkeypatch.setattr("pinakes.papers.self_supervised.simclrv2.labels_loss", noted)
    SimCLRv2(pre_share=0.0, tune_share=1.0).fit(FEW, steps=3, batch_size=8)
    assert [len(each) for each in seen] == [8] * 3
    assert all((each >= 0).all() for each in seen)


def test_the_teacher_says_the_same_whatever_else_is_in_the_batch() -> None:
    method = SimCLRv2().prepare(INFO).train()
    image = torch.rand(6, 3, 32, 32)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    torch.testing.assert_close(method.taught(image)[:2], method.taught(image[:2]))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(each.training for each in method.modules())


def test_the_student_answers_if_there_is_one() -> None:
    batch = batch_of([0, 1])
    method = SimCLRv2().prepare(INFO)
    expected = method.eval().student(batch["image"]).softmax(1)
    torch.testing.assert_close(method.predict(batch)["probabilities"], expected)
    alone = SimCLRv2(pre_share=0.8, tune_share=0.2).prepare(INFO)
    expected = alone.eval().teacher_logits(batch["image"]).softmax(1)
    torch.testing.assert_close(alone.predict(batch)["probabilities"], expected)
    assert not hasattr(alone, "student")


def test_a_smaller_student_is_the_backbone_that_is_passed_on(tmp_path: Path) -> None:
    method = SimCLRv2(student="pinakes/resnet8s2").fit(FEW, steps=10, batch_size=8, out=tmp_path)
    image = torch.rand(2, method.info.channels, *method.info.size)
    levels = method.as_backbone((-1,)).eval()(image)
    torch.testing.assert_close(levels[0], method.student.maps(image))
    assert method.encode(image)["embedding"].shape == (2, 64)
    loaded: Any = pinakes.load(tmp_path)
    assert torch.equal(loaded.predict(image)["probabilities"], method.predict(image)["probabilities"])


def test_labels_count_beside_the_teacher_by_what_alpha_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of([0, -1, 2])
    method = SimCLRv2(alpha=0.7).prepare(INFO).eval()
    monkeypatch.setattr(method, "cropped", lambda image: image)
    logits = method.student(batch["image"])
    expected = 0.7 * distillation_loss(logits, method.teacher_logits(batch["image"]))
    expected = expected + 0.3 * labels_loss(logits, batch["label"])
    torch.testing.assert_close(method.loss_of_student(batch), expected)


def test_data_without_any_label_are_refused() -> None:
    data = pinakes.load_data("digits?n=40", task="classification")
    samples = [{"image": data.train[i]["image"], "label": torch.tensor(-1)} for i in range(10)]
    with pytest.raises(pinakes.UserError, match="no training image has one"):
        SimCLRv2().fit((samples, data.info), steps=10, batch_size=4)


@pytest.mark.parametrize(
    "options",
    [
        {"tune_from": 3},
        {"pre_share": 1.0},
        {"tune_share": 0.0},
        {"tune_share": 0.6},
        {"distillation_temperature": 0.0},
        {"alpha": 0.0},
        {"temperature": 0.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        SimCLRv2(**options)  # type: ignore[arg-type]
