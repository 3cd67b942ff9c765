import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from torch.nn import functional

import pinakes
from pinakes.data.views import View, chosen, labels_of
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.ssld import (
    SSLD,
    _LabelledOnly,
    copies,
    jensen_shannon,
    small_pictures,
    surest_of_each_class,
    symmetric_divergence,
    target_rows,
)

DATA = "digits?n=80&labelled=0.25"
QUICK = {"steps": 2, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = 3 * torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    return student, teacher


def data() -> pinakes.TaskData:
    return pinakes.load_data(DATA, task="classification")


def divergence(one: list[float], other: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(one, other, strict=True))


def test_jensen_shannon_is_scipys(logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher = (each.softmax(1).numpy() for each in logits)
    expected = (jensenshannon(student, teacher, axis=1) ** 2).mean()
    assert jensen_shannon(*logits).item() == pytest.approx(expected, rel=1e-10)


def test_the_symmetric_divergence_is_the_formula_written_out(logits) -> None:  # type: ignore[no-untyped-def]
    pairs = list(zip(*(each.softmax(1).tolist() for each in logits), strict=True))
    expected = sum(divergence(p, q) + divergence(q, p) for p, q in pairs) / 2 / len(pairs)
    assert symmetric_divergence(*logits).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("measure", [jensen_shannon, symmetric_divergence])
def test_both_divergences_are_alike_both_ways_and_have_right_gradients(measure, logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher = logits
    torch.testing.assert_close(measure(student, teacher), measure(teacher, student))
    assert measure(teacher + 5, teacher).item() == pytest.approx(0, abs=1e-12)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: measure(s, teacher), student)


@pytest.mark.parametrize("measure", [jensen_shannon, symmetric_divergence])
def test_answers_sure_beyond_rounding_give_finite_losses_and_gradients(measure) -> None:  # type: ignore[no-untyped-def]
    student = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    loss = measure(student, torch.tensor([[-300.0, 0.0, 300.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()  # type: ignore[arg-type]


def test_the_surest_of_each_class_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (2 * torch.randn(60, 5, generator=generator)).softmax(1)
    probabilities[:, 4] = 0  # a class into which nothing is put
    expected = []
    for label in range(5):
        members = [i for i, row in enumerate(probabilities.tolist()) if row.index(max(row)) == label]
        expected += sorted(members, key=lambda i: -probabilities[i, label].item())[:7]
    assert surest_of_each_class(probabilities, 7).tolist() == sorted(expected)
    assert surest_of_each_class(probabilities, 60).tolist() == list(range(60))
    with pytest.raises(ValueError, match="count"):
        surest_of_each_class(probabilities, 0)


def test_copies_are_found_over_size_brightness_contrast_and_noise_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    known = functional.interpolate(torch.rand(10, 3, 8, 8, generator=generator), (64, 64), mode="bilinear")
    smaller = functional.interpolate(known[:2], (48, 48), mode="bilinear", antialias=True)
    noisy = 0.2 + 0.5 * known[2:4] + 0.02 * torch.randn(2, 3, 64, 64, generator=generator)
    other = functional.interpolate(torch.rand(5, 3, 8, 8, generator=generator), (64, 64), mode="bilinear")
    pool = torch.cat([small_pictures(each) for each in (smaller, noisy, known[4:5].flip(-1), other)])
    assert copies(pool, small_pictures(known)).tolist() == [True] * 4 + [False] * 6


def test_small_pictures_correlate_as_numpy_says() -> None:
    images = torch.rand(4, 3, 16, 16, dtype=torch.float64)
    pictures = small_pictures(images)
    torch.testing.assert_close(pictures @ pictures.T, torch.corrcoef(images.flatten(1)))


def test_target_rows_are_labelled_and_as_many_as_the_batch() -> None:
    assert target_rows(torch.tensor([3, -1, -1, 0, 1, -1, -1])).tolist() == [0, 3, 4, 0, 3, 4, 0]
    assert target_rows(torch.tensor([2, 1])).tolist() == [0, 1]
    assert target_rows(torch.tensor([-1, -1])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "measure"), [("jensen-shannon", jensen_shannon), ("symmetric", symmetric_divergence)]
)
def test_the_loss_is_the_divergence_alone(name, measure, logits) -> None:  # type: ignore[no-untyped-def]
    student, teacher = (Answer([], each) for each in logits)
    for label in (torch.arange(6) % 5, torch.full((6,), -1)):
        assert torch.equal(SSLD(divergence=name).loss(student, teacher, label), measure(*logits))


def test_the_last_stage_sees_labelled_images_alone() -> None:
    seen: list[torch.Tensor] = []

    class Watched(SSLD):
        def loss(self, student: Answer, teacher: Answer, label: torch.Tensor) -> torch.Tensor:
            seen.append(label)
            return super().loss(student, teacher, label)

    Watched(finetune=0.25, teacher_steps=1).fit(data(), steps=12, batch_size=16)
    assert [bool((label == -1).any()) for label in seen] == [True] * 9 + [False] * 3
    assert all(len(label) == 16 for label in seen if len(label) != len(seen[4]))


def test_without_a_last_stage_or_a_known_end_all_images_are_seen() -> None:
    seen: list[int] = []

    class Watched(SSLD):
        def loss(self, student: Answer, teacher: Answer, label: torch.Tensor) -> torch.Tensor:
            seen.append(int((label == -1).sum()))
            return super().loss(student, teacher, label)

    batch = {name: torch.stack([data().train[i][name] for i in range(16)]) for name in ("image", "label")}
    for finetune in (0.0, 0.5):
        Watched(finetune=finetune).prepare(data().info).training_step(batch, 0)
    assert seen == [int((batch["label"] == -1).sum())] * 2
    assert seen[0] > 0


def ready(method: SSLD, given: pinakes.TaskData) -> SSLD:
    method.prepare(given.info)
    method._begin()
    return method.eval()


def test_all_of_a_pool_without_copies_is_used() -> None:
    given = replace(data(), test=None)
    assert ready(SSLD(), given).selected(given) is given.train


def test_as_many_of_each_class_are_used_as_asked_for() -> None:
    given = replace(data(), test=None)
    method = ready(SSLD(per_class=2), given)
    selected = method.selected(given)
    labels = labels_of(given.train)
    known = [i for i, label in enumerate(labels) if label != -1]
    pool = [i for i, label in enumerate(labels) if label == -1]
    images = torch.stack([given.train[i]["image"] for i in pool])
    places = surest_of_each_class(method.taught(images).logits.softmax(1), 2)
    expected = sorted(known + [pool[place] for place in places.tolist()])
    assert isinstance(selected, View)
    assert [index for _, index in selected.picks] == expected
    assert len(expected) < len(given.train)


@pytest.mark.parametrize("part", ["val", "test"])
def test_copies_of_judged_images_are_left_out_but_labelled_images_stay(part: str) -> None:
    given = replace(data(), test=None)
    labels = labels_of(given.train)
    pool = [i for i, label in enumerate(labels) if label == -1]
    copied = [*pool[:3], labels.index(0)]
    judged = chosen(given.train, copied)
    given = replace(given, val=judged) if part == "val" else replace(given, test=judged)
    selected = ready(SSLD(), given).selected(given)
    assert isinstance(selected, View)
    left = {index for _, index in selected.picks}
    assert left.isdisjoint(copied[:3])
    assert copied[3] in left


def test_data_with_labels_only_is_learnt_as_it_is() -> None:
    given = pinakes.load_data("digits?n=40", task="classification")
    method = SSLD(per_class=1)
    assert method.selected(given) is given.train
    method.fit(given, **QUICK)


def test_a_student_learns_from_a_chosen_pool() -> None:
    method = SSLD(per_class=1).fit(data(), **QUICK)
    assert all(torch.isfinite(each).all() for each in method.parameters())


def test_a_student_learns_from_a_chosen_pool_in_two_processes() -> None:
    method = SSLD(per_class=1, teacher_steps=1).fit(data(), **QUICK, devices=2, device="cpu")
    assert all(torch.isfinite(each).all() for each in method.parameters())


def test_the_baseline_sees_labelled_images_alone_and_has_the_same_teacher() -> None:
    seen: list[torch.Tensor] = []

    class Watched(_LabelledOnly):
        def loss(self, student: Answer, teacher: Answer, label: torch.Tensor) -> torch.Tensor:
            seen.append(label)
            return super().loss(student, teacher, label)

    baseline = Watched().fit(data(), **QUICK)
    ours = SSLD().fit(data(), **QUICK)
    assert len(seen) == 2
    assert all((label >= 0).all() for label in seen)
    states = [method.learnt_from()["teacher"].state_dict() for method in (ours, baseline)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.parametrize(
    "option", [{"divergence": "kl"}, {"per_class": 0}, {"finetune": 1.0}, {"finetune": -0.1}]
)
def test_options_out_of_range_are_refused_by_name(option: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(option))):
        SSLD(**option)  # type: ignore[arg-type]
