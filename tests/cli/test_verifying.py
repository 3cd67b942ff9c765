"""`pinakes verify` and `pinakes cost`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.lab.shelf_of_claims import claiming

__all__ = ["claiming"]


@pytest.mark.usefixtures("claiming")
def test_verify_prints_the_verdicts_and_writes_them(pinakes_command: Command, tmp_path: Path) -> None:
    result = pinakes_command("verify toy-costs --seeds 2")
    assert result.exit_code == 0
    assert "Ours has fewer numbers." in result.stdout
    assert "holds" in result.stdout
    assert "not testable here" in result.stdout
    assert (tmp_path / "results/claims/toy-costs.json").is_file()
    records = json.loads(pinakes_command("verify toy-costs --stale --json").stdout)
    assert records[0]["claims"][0]["verdict"] == "holds"


@pytest.mark.usefixtures("claiming")
def test_verify_reports_a_failing_baseline_with_its_error_and_exit_code_1(pinakes_command: Command) -> None:
    result = pinakes_command("verify --shelf claiming --seeds 2")
    assert result.exit_code == 1
    assert "baseline failed with seed 1: RuntimeError: the wheel came off" in result.stderr
    assert "the traceback is in" in result.stderr
    assert "Knowing the label beats denying it." in result.stdout


@pytest.mark.usefixtures("claiming")
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("verify toy-cost", "did you mean 'toy-costs'?"),
        ("verify", "give one of the three"),
        ("verify toy-costs --all", "give one of the three"),
        ("verify --shelf claimin", "did you mean 'claiming'?"),
        ("verify toy-silent", "toy-silent: no claim is written down yet"),
        ("verify toy-costs --data ./nowhere", "./nowhere"),
        ("cost patchcor", "did you mean 'patchcore'?"),
        ("cost patchcore --size 0", "size"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(pinakes_command: Command, line: str, says: str) -> None:
    result = pinakes_command(line)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.usefixtures("claiming")
def test_verify_refuses_a_file_changed_by_hand(pinakes_command: Command, tmp_path: Path) -> None:
    pinakes_command("verify toy-costs --seeds 2")
    path = tmp_path / "results/claims/toy-costs.json"
    path.write_text(path.read_text().replace('"holds"', '"reversed"'))
    result = pinakes_command("verify toy-costs --stale")
    assert result.exit_code == 2
    assert "toy-costs.json: was changed since it was written" in result.stderr


@pytest.mark.slow
def test_cost_measures_a_method(pinakes_command: Command) -> None:
    found = json.loads(pinakes_command("cost patchcore --size 48 --batch-size 2 --device cpu --json").stdout)
    assert found["size"] == [48, 48]
    assert found["parameters"] > 100_000
    assert found["trainable"] == 0
    assert found["flops"] > 2 * found["parameters"]
    assert found["latency_ms"] > 0
    assert 0 <= found["peak_bytes"] < found["process_bytes"]
