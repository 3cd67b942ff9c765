"""A run that was stopped anywhere and resumed ends with the weights of one that was not."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pinakes import UserError
from pinakes.engine.checkpoints import latest
from tests.engine.toy import Toy, Validated, checkpoints, fitted, same, toy_data


def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_same_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings: dict[str, Any] = {"out": out, "checkpoint_every": 1e-6}
    process = multiprocessing.get_context("fork").Process(
        target=fitted, kwargs={"options": {"delay": 0.1}, **settings}
    )
    process.start()
    while not any("step-000000007" in path.name for path in checkpoints(out)):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    found = latest(out)
    assert found is not None
    assert found.position.epoch == 1
    assert found.position.batch > 0
    resumed = fitted(options={"delay": 0.1}, resume=True, workers=2, **settings)
    assert same(resumed, fitted())


@pytest.mark.parametrize(
    ("kind", "schedule", "length"),
    [
        (Toy, "step", {"epochs": 2}),
        (Toy, "epoch", {"steps": 8}),
        (Validated, "plateau", {"epochs": 2}),
        (Validated, "plateau", {"steps": 10}),
    ],
)
def test_a_run_stopped_after_every_step_ends_with_the_same_weights(
    tmp_path: Path, kind: type[Toy], schedule: str, length: dict[str, int]
) -> None:
    out, options = tmp_path / "run", {"schedule": schedule}
    whole = fitted(kind, options=options, **length)
    part = fitted(kind, options=options, out=out, time_limit=1e-6, **length)
    while int(part.seen) < int(whole.seen):
        before = int(part.seen)
        part = fitted(kind, options=options, out=out, time_limit=1e-6, resume=True, **length)
        assert int(part.seen) == before + 1
    assert same(part, whole)
    rows = (out / "log.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(int(whole.seen)))


@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_a_finished_run_can_be_trained_further(tmp_path: Path, length: str) -> None:
    options = {"schedule": "plateau"}
    fitted(Validated, options=options, out=tmp_path / "run", **{length: 2})
    longer = fitted(Validated, options=options, out=tmp_path / "run", resume=True, **{length: 4})
    assert same(longer, fitted(Validated, options=options, **{length: 4}))
    with pytest.raises(UserError, match=rf"{length}: the run in .* already has 4, got 1"):
        fitted(Validated, options=options, out=tmp_path / "run", resume=True, **{length: 1})


class Averaged(Toy):
    """Halves its weights when training ends, as a moving average would put itself in place."""

    def on_train_end(self) -> None:
        for parameter in self.parameters():
            parameter.data /= 2


def test_resuming_a_finished_run_gives_its_result_again(tmp_path: Path) -> None:
    finished = fitted(Averaged, out=tmp_path / "run")
    assert same(finished, fitted(Averaged, out=tmp_path / "run", resume=True))


def test_resuming_before_the_first_checkpoint_starts_from_the_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    method = fitted(out=tmp_path / "run", resume=True)
    assert "holds no checkpoint yet; starting from the beginning" in caplog.text
    assert same(method, fitted())


def test_a_second_run_does_not_overwrite_the_first(tmp_path: Path) -> None:
    fitted(out=tmp_path / "run")
    with pytest.raises(UserError, match=r"already holds a run .*--resume, or give another folder"):
        fitted(out=tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("batch_size", {"batch_size": 4}),
        ("seed", {"seed": 1}),
        ("precision", {"precision": "64"}),
        ("options", {"options": {"rate": 0.1}}),
        ("data", {"data": toy_data(24)}),
    ],
)
def test_resuming_with_another_setting_is_refused(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    fitted(out=tmp_path / "run", time_limit=1e-6)
    with pytest.raises(UserError, match=f"{name}: the run in .* has .*, not .*; resume with the same"):
        fitted(out=tmp_path / "run", resume=True, **change)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    out = tmp_path / "run"
    whole = fitted(out=out, checkpoint_every=1e-6)
    last = checkpoints(out)[-1]
    content = bytearray(last.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 255
    last.write_bytes(content)
    assert same(whole, fitted(out=out, checkpoint_every=1e-6, resume=True))
    assert f"{last}: is damaged" in caplog.text


def test_with_every_checkpoint_damaged_the_file_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    fitted(out=out)
    for path in checkpoints(out):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step-000000015\.ckpt: is damaged .*no other to resume from"):
        fitted(out=out, resume=True)
