"""New images from the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pinakes
from tests.cli.conftest import Command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ddpm") / "run"
    options = {"n_channels": 8, "ch_mults": (1,), "sampling_steps": 2}
    pinakes.create("ddpm", **options).fit("digits?n=40&size=8", steps=2, batch_size=8, out=folder)
    return folder


def test_sample_writes_images_and_a_sheet(pinakes_command: Command, run: Path, tmp_path: Path) -> None:
    result = pinakes_command(f"sample {run} --n 5 --out {tmp_path / 'one'} --class 3")
    assert result.exit_code == 0, result.output
    assert "sheet.png" in result.stdout
    names = sorted(each.name for each in (tmp_path / "one").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png", "0003.png", "0004.png", "sheet.png"]
    assert Image.open(tmp_path / "one" / "sheet.png").size == (16, 24)


def test_how_many_are_made_at_a_time_changes_nothing(
    pinakes_command: Command, run: Path, tmp_path: Path
) -> None:
    for folder, batch_size in (("whole", 8), ("parts", 2)):
        pinakes_command(f"sample {run} --n 5 --out {tmp_path / folder} --batch-size {batch_size}")
    one, other = (
        np.asarray(Image.open(tmp_path / folder / "sheet.png"), dtype=int) for folder in ("whole", "parts")
    )
    assert abs(one - other).max() <= 1


@pytest.mark.parametrize(("words", "said"), [("--class x", "class: 'x' is unknown"), ("", "holds samples")])
def test_sample_says_what_cannot_be_done(
    words: str, said: str, pinakes_command: Command, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "sheet.png").touch()
    result = pinakes_command(f"sample {run} --n 2 --out {tmp_path} {words}")
    assert result.exit_code == 2
    assert said in result.output


def test_a_run_that_makes_no_images_is_refused(
    pinakes_command: Command, fitted: Path, tmp_path: Path
) -> None:
    result = pinakes_command(f"sample {fitted} --n 2 --out {tmp_path / 'new'}")
    assert result.exit_code == 2
    assert "makes no images" in " ".join(result.output.split())


def test_a_class_is_refused_by_a_method_that_is_told_none(pinakes_command: Command, tmp_path: Path) -> None:
    options = {"n_channels": 8, "ch_mults": (1,), "sampling_steps": 2, "classes": False}
    pinakes.create("ddpm", **options).fit("digits?n=40&size=8", steps=1, batch_size=8, out=tmp_path / "run")
    result = pinakes_command(f"sample {tmp_path / 'run'} --n 2 --out {tmp_path / 'new'} --class 3")
    assert result.exit_code == 2, result.output
    assert "was not told classes" in result.output
