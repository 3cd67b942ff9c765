from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pinakes
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.self_distill import SelfDistillation, hidden_distance

INFO = pinakes.DataInfo(3, (32, 32))
SMALL: dict[str, Any] = {"patch": 8, "embed_dim": 32, "depth": 2}


class Watched(SelfDistillation):
    """Notes at every step with which weights it begins, what the teacher's are and how many numbers AdamW keeps."""

    stop_at = -1

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.begun: list[Tensor] = []
        self.taught: list[Tensor | None] = []
        self.kept: list[int] = []
        self.rates: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == self.stop_at:
            raise RuntimeError("stopped")
        self.begun.append(weights(self.encoder))
        self.taught.append(weights(self._teacher[0][0]) if self._teacher else None)
        self.kept.append(len(self.trainer.optimizers[0].state))
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)


class StopsAtThree(Watched):
    stop_at = 3


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten().clone() for each in module.parameters()])


def test_the_distance_is_the_squared_length_of_the_difference() -> None:
    student, teacher = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    found = hidden_distance(student, teacher)
    naive = sum((student[row] - teacher[row]).norm() ** 2 for row in range(4)) / 4
    torch.testing.assert_close(found, naive)
    found.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 2)


def test_the_loss_is_that_of_painting_and_the_distance_of_class_tokens_of_whole_images() -> None:
    method, other = SelfDistillation(**SMALL).prepare(INFO), SelfDistillation(**SMALL).prepare(INFO, seed=1)
    image = torch.rand(3, 3, 32, 32)
    torch.manual_seed(0)
    painting = method.loss(image)
    other._set_teacher()
    method._teacher = other._teacher
    torch.manual_seed(0)
    found = method.loss(image)
    tokens = [each.decoder.norm(each.encoder(image))[:, 0] for each in (method, other)]
    torch.testing.assert_close(found - painting, hidden_distance(*tokens))
    found.backward()
    assert all(each.grad is None for each in method._teacher[0].parameters())


def test_every_round_begins_with_the_initial_weights_and_the_last_student_as_teacher() -> None:
    method = Watched(rounds=2, **SMALL).fit("digits?n=40", steps=6, batch_size=4)
    begun, taught = method.begun, method.taught
    assert taught[:2] == [None, None]
    for first in (2, 4):
        assert torch.equal(begun[first], begun[0])
        assert torch.equal(taught[first], taught[first + 1])  # type: ignore[arg-type]
        assert not torch.equal(taught[first], begun[first - 1])  # type: ignore[arg-type]  # it made one step more
    assert not torch.equal(taught[2], taught[4])  # type: ignore[arg-type]
    assert [each == 0 for each in method.kept] == [True, False] * 3
    assert method.rates[0] == method.rates[2] == method.rates[4]
    assert method._teacher == []
    assert method._initial == {}


def test_a_resumed_run_keeps_its_teacher_and_its_start(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "batch_size": 4, "checkpoint_every": 1e-9}
    whole = Watched(rounds=2, **SMALL).fit("digits?n=40", **settings)
    with pytest.raises(RuntimeError, match="stopped"):
        StopsAtThree(rounds=2, **SMALL).fit("digits?n=40", out=tmp_path, **settings)
    # the name of the class is in the folder
    StopsAtThree.stop_at = -1
    try:
        resumed = StopsAtThree(rounds=2, **SMALL).fit("digits?n=40", out=tmp_path, resume=True, **settings)
    finally:
        StopsAtThree.stop_at = 3
    assert len(resumed.begun) < 6
    assert torch.equal(weights(resumed), weights(whole))


def test_without_rounds_it_is_a_masked_autoencoder() -> None:
    ours = SelfDistillation(rounds=0, **SMALL).fit("digits?n=40", steps=3, batch_size=4)
    theirs = MAE(augmentation="none", **SMALL).fit("digits?n=40", steps=3, batch_size=4)
    assert torch.equal(weights(ours), weights(theirs))


def test_training_begins_with_a_fitted_masked_autoencoder(tmp_path: Path) -> None:
    start = MAE(**SMALL).fit("digits?n=40", steps=2, batch_size=4, out=tmp_path)
    method = Watched(start=str(tmp_path), **SMALL).fit("digits?n=40", steps=2, batch_size=4, seed=5)
    assert torch.equal(method.begun[0], weights(start.encoder))
    assert torch.equal(method.begun[1], weights(start.encoder))
    method.save(tmp_path / "after")
    for file in tmp_path.glob("*.*"):
        file.unlink()
    assert method.predict(torch.rand(1, 3, 32, 32))["embedding"].shape == (1, 32)


def test_a_start_of_another_form_is_refused_by_what_differs(tmp_path: Path) -> None:
    MAE(**SMALL).fit("digits?n=40", steps=1, batch_size=4, out=tmp_path)
    for options, data, name in (
        (SMALL | {"depth": 1}, "digits?n=40", "depth 2"),
        (SMALL, "digits?n=40&channels=1", "channels 3"),
        (SMALL, "digits?n=40&size=16", "size"),
    ):
        with pytest.raises(pinakes.UserError, match=f"start: .*{name}"):
            SelfDistillation(start=str(tmp_path), **options).fit(data, steps=1)
    pinakes.create("random-weights").fit("digits?n=40", out=tmp_path / "other")
    with pytest.raises(pinakes.UserError, match="not of a masked autoencoder"):
        SelfDistillation(start=str(tmp_path / "other")).fit("digits?n=40", steps=1)


def test_a_time_limit_alone_and_less_than_no_rounds_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="trains in stages"):
        SelfDistillation(**SMALL).fit("digits?n=40", steps=10**9, time_limit=1)
    with pytest.raises(pinakes.UserError, match="rounds"):
        SelfDistillation(rounds=-1)
