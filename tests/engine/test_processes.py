"""Several processes train as one, and fail as one."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pinakes import UserError
from pinakes.engine.watch import Diverged
from tests.engine.toy import Toy, checkpoints, fitted, same, toy_data, weights


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_joint_batch() -> None:
    settings: dict[str, Any] = {"data": toy_data(noise=False), "options": {"dropout": 0.0}}
    joint = fitted(batch_size=8, **settings)
    split = fitted(batch_size=4, devices=2, **settings)
    assert not split.training
    torch.testing.assert_close(weights(split), weights(joint), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_divergence_in_processes_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="at step 3; the weights of step 0"):
        fitted(options={"bad_step": 3}, devices=2, out=tmp_path / "run")
    assert torch.isfinite(weights(Toy.load(tmp_path / "run"))).all()


def _lead(**settings: Any) -> None:
    os.setsid()
    fitted(**settings)


@pytest.mark.slow
def test_killed_processes_resume_to_the_same_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings: dict[str, Any] = {"devices": 2, "batch_size": 4, "options": {"delay": 0.1}}
    leader = multiprocessing.get_context("fork").Process(
        target=_lead, kwargs={"out": out, "checkpoint_every": 1e-6, **settings}
    )
    leader.start()
    while not any("step-000000007" in path.name for path in checkpoints(out)):
        assert leader.is_alive()
        time.sleep(0.01)
    os.killpg(leader.pid or 0, signal.SIGKILL)
    leader.join()
    assert same(fitted(out=out, resume=True, **settings), fitted(**settings))


def test_what_cannot_be_sent_to_processes_is_named() -> None:
    class Local(Toy):
        pass

    with pytest.raises(UserError, match="devices: the method or its data cannot be sent to other processes"):
        fitted(Local, devices=2)


def test_a_device_number_with_several_devices_is_refused() -> None:
    with pytest.raises(UserError, match="device: give 'cpu' to train on 2 devices, not 'cpu:0'"):
        fitted(device="cpu:0", devices=2)
