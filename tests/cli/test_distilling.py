"""`pinakes distill`, and what a run of classification is good for afterwards."""

import json
from pathlib import Path

import pytest

import pinakes
from pinakes.engine import export
from tests.cli.conftest import Command, write_image

DIGITS = "digits?n=40"
LINE = f"distill pinakes/resnet8 --student pinakes/resnet8s2 --data '{DIGITS}' --steps 2 --device cpu"


def test_distill_prints_teacher_and_student_and_what_to_do_next(
    pinakes_command: Command, tmp_path: Path
) -> None:
    result = pinakes_command(f"{LINE} --method kd --no-export")
    assert result.exit_code == 0, result.output
    for words in ("taught by kd", "Accuracy", "size (MB)", "parameters", "batch of 16", "student / teacher"):
        assert words in result.stdout
    assert "pinakes predict runs/distilled-digits IMAGES" in result.stdout
    assert pinakes.load(tmp_path / "runs/distilled-digits").options["student"] == "pinakes/resnet8s2"


def test_of_several_methods_it_says_how_one_is_chosen(pinakes_command: Command) -> None:
    result = pinakes_command(f"{LINE} --method kd,dkd --set dkd.alpha=2 --no-export --out few")
    assert result.exit_code == 0, result.output
    assert "2 methods; the best is chosen on the 40 validation images" in result.stdout
    assert all((Path("few/fits") / slug / "method.json").is_file() for slug in ("kd", "dkd"))
    assert pinakes.load("few/fits/dkd").options["alpha"] == 2.0


def test_as_json(pinakes_command: Command) -> None:
    result = pinakes_command(f"{LINE} --method kd --no-export --out few --json")
    found = json.loads(result.stdout)
    assert found == json.loads(Path("few/distilled.json").read_text())


def test_without_the_extra_it_says_what_to_install_and_keeps_the_run(
    pinakes_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.NEEDS, "onnx", ("no_such_package",))
    result = pinakes_command(f"{LINE} --method kd --out few")
    assert result.exit_code == 1
    assert "error: not exported: onnx needs no_such_package; pip install 'pinakes[export]'" in result.stderr
    assert "pinakes export few tries again" in result.stderr
    assert pinakes.load("few").is_built


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method kdd", "did you mean 'kd'"),
        ("--method cross-entropy", "teaches no student"),
        ("--method kd --set kd.student=x", "kd.student is given already"),
        ("--method kd --set kd.alpha=x", "kd has no option 'alpha'"),
    ],
)
def test_wrong_words_are_one_line(pinakes_command: Command, words: str, message: str) -> None:
    result = pinakes_command(f"{LINE} {words}")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not Path("runs").exists()


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder for each class."""
    for place, name in enumerate(["cat", "dog"]):
        for index in range(6):
            write_image(tmp_path / f"pets/{name}/{index}.png", seed=10 * place + index)
    return tmp_path / "pets"


def test_a_folder_for_each_class_is_fitted_judged_and_used(
    pinakes_command: Command, pets: Path, tmp_path: Path
) -> None:
    fitted = pinakes_command("fit cross-entropy --data pets --steps 2 --batch-size 4 --out run --device cpu")
    assert fitted.exit_code == 0, fitted.output
    judged = pinakes_command("evaluate run --data pets --json")
    assert set(json.loads(judged.stdout)["groups"]) == {"cat", "dog"}
    write_image(tmp_path / "new/x.png", size=(48, 40))
    write_image(tmp_path / "new/y.png")
    result = pinakes_command("predict run new --out found")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "found/predictions.jsonl").read_text().splitlines()]
    for line in lines:
        assert set(line) == {"path", "probabilities", "label", "confidence", "name", "picture"}
        assert list(line["probabilities"]) == ["cat", "dog"]
        assert line["probabilities"][line["name"]] == pytest.approx(line["confidence"])
        assert line["name"] == ["cat", "dog"][line["label"]]
        assert (tmp_path / "found" / line["picture"]).is_file()


def test_a_shelf_is_compared_by_its_name(pinakes_command: Command) -> None:
    line = "compare distillation --methods cross-entropy,kd --seeds 1 --steps 2 --device cpu"
    result = pinakes_command(
        f"{line} --data '{DIGITS}' --set all.teacher_steps=1 --set all.student=pinakes/resnet8"
    )
    assert result.exit_code == 0, result.output
    assert "report: runs/distillation-digits/report.html" in result.stdout
    assert "teacher: pinakes/tiny_conv" in result.stdout
    found = json.loads(Path("runs/distillation-digits/leaderboard.json").read_text())
    assert (found["task"], len(found["references"]), len(found["rows"])) == ("classification", 1, 2)
    described = json.loads(Path("runs/distillation-digits/comparison.json").read_text())
    assert "--set all.student=pinakes/resnet8" in described["command"]
