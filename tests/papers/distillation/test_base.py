import inspect
import logging
import os
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.engine.plan import TrainingPlan
from pinakes.papers.distillation.base import distillation_divergence
from pinakes.papers.distillation.classifier import Classifier, labelled_cross_entropy
from pinakes.papers.distillation.dkd import DKD
from pinakes.papers.distillation.kd import KD

DATA = "digits?n=40"
QUICK = {"steps": 2, "batch_size": 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "fitted").iterdir())


def weights(method: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in method.parameters()])


def test_divergence_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    told, said = (teacher / 3).softmax(1), (student / 3).softmax(1)
    expected = 9 * (told * (told / said).log()).sum(1).mean()
    torch.testing.assert_close(distillation_divergence(student, teacher, 3.0), expected)


def test_cross_entropy_counts_labelled_images_only() -> None:
    logits = torch.randn(4, 3)
    found = labelled_cross_entropy(logits, torch.tensor([-1, 2, -1, 0]))
    torch.testing.assert_close(found, functional.cross_entropy(logits[[1, 3]], torch.tensor([2, 0])))
    assert labelled_cross_entropy(logits, torch.full((4,), -1)) == 0


def test_shared_options_are_options_of_every_method() -> None:
    assert DKD.option_defaults()["student"] == "pinakes/resnet8s2"
    assert list(inspect.signature(DKD).parameters)[:3] == ["alpha", "beta", "temperature"]
    assert "teacher_steps:" in (DKD.__doc__ or "")
    assert DKD(student="pinakes/resnet8").options["student"] == "pinakes/resnet8"
    with pytest.raises(TypeError, match="techer"):
        DKD(techer="pinakes/tiny_vit")


def test_a_teacher_is_trained_once_for_all_methods_and_seeds(own_cache: Path) -> None:
    first = KD().fit(DATA, **QUICK).learnt_from()["teacher"]
    second = DKD().fit(DATA, **QUICK, seed=3).learnt_from()["teacher"]
    assert len(kept(own_cache)) == 1
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize(
    ("options", "data", "settings"),
    [
        ({"teacher_steps": 3}, DATA, QUICK),
        ({"teacher": "pinakes/tiny_vit"}, DATA, QUICK),
        ({"augmentation": "none"}, DATA, QUICK),
        ({}, "digits?n=50", QUICK),
        ({}, f"{DATA}&labelled=2", QUICK),
        ({}, DATA, {**QUICK, "batch_size": 4}),
    ],
)
def test_another_teacher_is_trained_where_anything_that_matters_differs(
    own_cache: Path, options: dict[str, object], data: str, settings: dict[str, int]
) -> None:
    KD(teacher_steps=2).fit(DATA, **QUICK)
    KD(**{"teacher_steps": 2, **options}).fit(data, **settings)
    assert len(kept(own_cache)) == 2


def test_a_data_set_that_states_nothing_of_itself_is_known_by_its_images(own_cache: Path) -> None:
    info = pinakes.DataInfo(3, (32, 32), ("a", "b"))
    one, other = (
        [{"image": torch.full((3, 32, 32), share), "label": torch.tensor(i % 2)} for i in range(8)]
        for share in (0.2, 0.8)
    )
    for samples in (one, other, one):
        KD().fit((samples, info), steps=1, batch_size=4)
    assert len(kept(own_cache)) == 2


def test_a_damaged_teacher_is_trained_again(own_cache: Path) -> None:
    expected = weights(KD().fit(DATA, **QUICK))
    (folder,) = kept(own_cache)
    (folder / "weights.safetensors").write_bytes(b"damaged")
    assert torch.equal(weights(KD().fit(DATA, **QUICK)), expected)


def test_the_result_is_the_same_whether_the_teacher_was_there_or_not() -> None:
    assert torch.equal(weights(KD().fit(DATA, **QUICK)), weights(KD().fit(DATA, **QUICK)))


def test_the_teacher_is_no_part_of_the_student(tmp_path: Path) -> None:
    student = KD().fit(DATA, **QUICK)
    alone = pinakes.create("cross-entropy").fit(DATA, **QUICK)
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in alone.parameters())
    assert set(student.state_dict()) == set(alone.state_dict())
    teacher = student.learnt_from()["teacher"]
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training


def test_training_leaves_the_teacher_as_it_was() -> None:
    method = KD().fit(DATA, **QUICK)
    state = {name: value.clone() for name, value in method.learnt_from()["teacher"].state_dict().items()}
    method.train()
    batch = method.task.collate([pinakes.load_data(DATA, task="classification").train[i] for i in range(4)])
    method.training_step(batch, 0).backward()
    after = method.learnt_from()["teacher"].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in state.items())


def test_a_run_folder_is_a_teacher(tmp_path: Path) -> None:
    teacher = pinakes.create("cross-entropy", student="pinakes/resnet20s2").fit(DATA, **QUICK)
    teacher.save(tmp_path / "teacher")
    student = KD(teacher=str(tmp_path / "teacher")).fit(DATA, **QUICK)
    assert torch.equal(weights(student.learnt_from()["teacher"]), weights(teacher))


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    samples = [{"image": torch.rand(3, 32, 32), "label": torch.tensor(i % 2)} for i in range(4)]
    info = pinakes.DataInfo(3, (32, 32), ("cat", "dog"))
    pinakes.create("cross-entropy").fit((samples, info), steps=1).save(tmp_path)
    with pytest.raises(pinakes.UserError, match="cat, dog"):
        KD(teacher=str(tmp_path)).fit(DATA, **QUICK)


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    pinakes.create("padim").fit("textures?size=32&n=8").save(tmp_path)
    with pytest.raises(pinakes.UserError, match="not of a method of this shelf"):
        KD(teacher=str(tmp_path)).fit(DATA, **QUICK)


def test_a_teacher_sees_images_in_the_size_it_was_fitted_on(tmp_path: Path) -> None:
    pinakes.create("cross-entropy").fit(f"{DATA}&size=48", **QUICK).save(tmp_path)
    student = KD(teacher=str(tmp_path)).fit(DATA, **QUICK)
    seen = []
    teacher = student.learnt_from()["teacher"]
    teacher.network.backbone.register_forward_pre_hook(lambda _, images: seen.append(images[0].shape))  # type: ignore[union-attr,operator]
    student.taught(torch.rand(2, 3, 32, 32))
    assert seen == [(2, 3, 48, 48)]


def test_an_untrained_teacher_is_said_to_be_one(caplog: pytest.LogCaptureFixture) -> None:
    method = KD().prepare(pinakes.load_data(DATA, task="classification").info)
    with caplog.at_level(logging.WARNING):
        method.taught(torch.rand(2, 3, 32, 32))
    assert "has not been trained" in caplog.text


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = []

    class Watched(Classifier):
        def on_train_batch_start(self, *_: object) -> None:
            rates.append(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]

    Watched().fit(DATA, steps=20, batch_size=8)
    assert rates[0] < 0.02 * 2e-3
    assert max(rates) == pytest.approx(2e-3, rel=0.02)
    assert rates[-1] < 0.02 * 2e-3
    assert rates.index(max(rates)) in (2, 3)


def test_a_worker_without_the_teacher_trains_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    data = pinakes.load_data(DATA, task="classification")
    method = KD().prepare(data.info)
    method.ready(data, TrainingPlan(steps=1, batch_size=8, devices=2))
    assert "teacher" in method.learnt_from()
    assert {name: os.environ[name] for name in launched} == launched


@pytest.mark.slow
def test_a_student_learns_in_two_processes() -> None:
    fitted = KD().fit(DATA, **QUICK, devices=2, device="cpu")
    assert torch.isfinite(weights(fitted)).all()


def test_a_run_that_was_cut_short_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    KD(teacher_steps=2).fit(DATA, steps=2, batch_size=8, out=tmp_path)
    resumed = KD(teacher_steps=2).fit(DATA, steps=4, batch_size=8, out=tmp_path, resume=True)
    assert torch.isfinite(weights(resumed)).all()
