"""Exit codes, and what stands on standard error."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from pinakes.cli.group import Commands
from pinakes.errors import UserError


def outcome(error: BaseException, command: str = "fit") -> tuple[int, str]:
    app = typer.Typer(cls=Commands)

    @app.callback()
    def group() -> None:
        """Makes the one command a command of a group."""

    @app.command(command)
    def fail() -> None:
        print("result so far")
        raise error

    result = CliRunner().invoke(app, [command])
    assert result.stdout == "result so far\n"
    return result.exit_code, result.stderr


@pytest.fixture(autouse=True)
def _as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PINAKES_DEBUG", raising=False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)


def test_user_error_is_one_line_and_2() -> None:
    assert outcome(UserError("size: too\n  small")) == (2, "error: size: too small\n")


def test_unexpected_error_is_one_line_with_a_hint_and_1() -> None:
    code, text = outcome(RuntimeError("shapes\ndiffer"))
    assert code == 1
    assert text == "error: RuntimeError: shapes differ; PINAKES_DEBUG=1 shows the traceback\n"


@pytest.mark.parametrize("error", [UserError("x"), RuntimeError("x")])
def test_debugging_shows_the_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_DEBUG", "1")
    _, text = outcome(error)
    assert text.startswith("Traceback")
    assert "in fail\n    raise error" in text


@pytest.mark.parametrize(
    ("command", "hint"), [("fit", "--resume"), ("compare", "continues"), ("data", "again")]
)
def test_interrupt_says_how_to_continue(command: str, hint: str) -> None:
    code, text = outcome(KeyboardInterrupt(), command)
    assert code == 130
    assert text.startswith("error: interrupted; ")
    assert hint in text
    assert text.count("\n") == 1


HALF_MADE = """
import typer
from pinakes.cli.group import Commands

class Loader:
    def __init__(self):
        raise KeyboardInterrupt
        self.workers = []

    def __del__(self):
        self.workers.clear()

app = typer.Typer(cls=Commands)
app.callback()(lambda: None)
app.command("compare")(lambda: Loader())
app()
"""


def test_interrupt_is_one_line_though_something_was_half_made(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HALF_MADE, "compare"]
    found = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 130
    assert found.stderr == "error: interrupted; the same command continues after the cells that are done\n"


def _heed_interrupts() -> None:
    """Where the tests run in the background of a shell, the key is ignored, and processes inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt_from_the_keyboard_in_the_middle_of_a_comparison(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "pinakes", "compare", "anomaly", "--data", "textures?size=32&n=8"]
    line += ["--methods", "patchcore", "--seeds", "500", "--out", "cmp"]
    process = subprocess.Popen(
        line, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_interrupts
    )
    while process.poll() is None and not list(tmp_path.glob("cmp/cells/*/seed-0/cell.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    # where the key fell into a callback, Python first tells that it ignored an exception
    assert text.endswith("error: interrupted; the same command continues after the cells that are done\n")


def test_reader_that_closes_early_is_no_traceback() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    line = f"{sys.executable} -m pinakes list --json | true"
    found = subprocess.run(line, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert found.stderr == ""
