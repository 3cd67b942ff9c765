"""Training fits, repeats itself, says what goes wrong, and leaves nothing behind."""

import copy
import csv
import logging
import os
import pickle
import random
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pinakes import UserError
from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.training import claim, train
from pinakes.engine.watch import Diverged
from pinakes.method import Method
from tests.engine.toy import INFO, Toy, Validated, checkpoints, fitted, same, toy_data, weights


def error_of(method: Toy, data: TaskData) -> float:
    batch = method.task.collate([data.train[index] for index in range(len(data.train))])
    with torch.no_grad():
        return float(functional.mse_loss(method.predict_step(batch)["score"], batch["target"]))


def test_training_lowers_the_loss() -> None:
    data = toy_data(noise=False)
    before = Toy(dropout=0).prepare(INFO)
    after = fitted(data=data, options={"dropout": 0.0}, epochs=10)
    assert error_of(after, data) < 0.5 * error_of(before, data)


def test_the_seed_decides_the_weights_and_the_workers_do_not() -> None:
    method = fitted()
    assert same(method, fitted())
    assert same(method, fitted(workers=2))
    assert not same(method, fitted(seed=1))


def test_steps_count_across_epochs() -> None:
    assert int(fitted(steps=7).seen) == 7


def test_the_method_is_left_free_of_the_trainer() -> None:
    method = fitted()
    assert not method.training
    assert method._trainer is None
    assert all(p.grad is None for p in method.parameters())
    assert same(method, copy.deepcopy(method))
    assert same(method, pickle.loads(pickle.dumps(method)))


def test_generators_and_handlers_are_left_as_they_were() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    handler = signal.getsignal(signal.SIGINT)
    fitted()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]
    assert signal.getsignal(signal.SIGINT) is handler


def test_without_a_run_folder_no_file_is_written_and_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(Validated)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_run_folder_gets_log_and_two_checkpoints(tmp_path: Path) -> None:
    method = fitted(Validated, out=tmp_path / "run", checkpoint_every=1e-6)
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(15))
    assert all(float(row["loss"]) > 0 for row in rows)
    assert [bool(row["val_loss"]) for row in rows] == [step % 5 == 4 for step in range(15)]
    assert [path.name for path in checkpoints(tmp_path / "run")] == [
        "step-000000014.ckpt",
        "step-000000015.ckpt",
    ]
    assert same(method, fitted(Validated))


def test_progress_shows_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    fitted(progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "15/15" in err


def test_training_in_64_bits_gives_a_method_for_32_bit_images() -> None:
    method = fitted(precision="64")
    assert method.predict_step({"image": torch.rand(2, 1, 8, 8)})["score"].dtype == torch.float32
    torch.testing.assert_close(weights(method), weights(fitted()), rtol=1e-3, atol=1e-3)


def test_the_gradient_is_clipped() -> None:
    assert not same(fitted(clip=0.01), fitted())


def test_a_loss_that_is_not_finite_stops_training_and_puts_good_weights_back(tmp_path: Path) -> None:
    method = Toy(bad_step=58).prepare(INFO)
    plan = TrainingPlan(steps=90, batch_size=8, device="cpu", out=tmp_path / "run")
    claim(method, toy_data(), plan)
    with pytest.raises(Diverged, match="nan and is not finite at step 58; the weights of step 50") as caught:
        train(method, toy_data(), plan)
    assert (caught.value.step, caught.value.good_step) == (58, 50)
    good = fitted(options={"bad_step": 58}, steps=50)
    assert same(method, good)
    assert not method.training
    assert same(Toy.load(tmp_path / "run"), good)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_time_limit_stops_training(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        method = fitted(time_limit=1e-6)
    assert int(method.seen) == 1
    assert "time limit of 1e-06 s reached after step 1" in caplog.text


def test_an_interrupt_saves_a_checkpoint_and_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fitted(Pressed, epochs=1000, out=tmp_path / "run")
    assert len(checkpoints(tmp_path / "run")) >= 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Pressed(Toy):
    """The same, with Ctrl-C pressed in the seventh step."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.trainer.global_step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return super().training_step(batch, batch_idx)


class Manual(Toy):
    """The same, stepping its optimiser itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_a_method_may_step_its_optimisers_itself(tmp_path: Path) -> None:
    method = Manual().prepare(INFO)
    plan = TrainingPlan(epochs=2, batch_size=8, device="cpu")
    train(method, toy_data(), plan)
    assert int(method.seen) == 10
    with pytest.raises(UserError, match="clip: Manual steps its optimisers itself"):
        train(method, toy_data(), replace(plan, clip=1.0))


def test_a_method_without_training_step_is_named() -> None:
    class Bare(Method):
        task_name = "anomaly"

    with pytest.raises(TypeError, match="Bare gives neither `training_step` nor a `learn`"):
        train(Bare().prepare(INFO), toy_data(), TrainingPlan(device="cpu"))


def test_settings_that_cannot_be_used_are_named() -> None:
    with pytest.raises(UserError, match="nodes: to train on 2 machines, start the command with torchrun"):
        fitted(nodes=2)
    with pytest.raises(UserError, match="seed: expected a whole number of 0 or more, got -1"):
        fitted(seed=-1)
