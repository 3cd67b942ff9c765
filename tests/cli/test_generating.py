"""New images from the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pinakes
from tests.cli.conftest import Command, write_image, write_mask


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


def test_predict_names_the_command_for_runs_that_make_images(
    pinakes_command: Command, run: Path, tmp_path: Path
) -> None:
    result = pinakes_command(f"predict {run} {write_image(tmp_path / 'a.png')} --out {tmp_path / 'found'}")
    assert result.exit_code == 2
    assert f"use pinakes sample {run} --out DIR" in " ".join(result.output.split())


def test_a_class_is_refused_by_a_method_that_is_told_none(pinakes_command: Command, tmp_path: Path) -> None:
    options = {"n_channels": 8, "ch_mults": (1,), "sampling_steps": 2, "classes": False}
    pinakes.create("ddpm", **options).fit("digits?n=40&size=8", steps=1, batch_size=8, out=tmp_path / "run")
    result = pinakes_command(f"sample {tmp_path / 'run'} --n 2 --out {tmp_path / 'new'} --class 3")
    assert result.exit_code == 2, result.output
    assert "was not told classes" in result.output


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a method that fills holes."""
    folder = tmp_path_factory.mktemp("repaint") / "run"
    options = {"n_channels": 8, "ch_mults": (1,), "sampling_steps": 3, "jump_length": 1, "resamplings": 2}
    pinakes.create("repaint", **options).fit("digits?n=40&size=8", steps=2, batch_size=8, out=folder)
    return folder


def test_edit_writes_answers_and_a_sheet(pinakes_command: Command, filling: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", (8, 8))
    Image.fromarray(np.tri(8, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    result = pinakes_command(f"edit {filling} photo.png --mask mask.png --n 3 --out edited.png")
    assert result.exit_code == 0, result.output
    assert "edited-sheet.png" in result.stdout
    assert "enlarged" not in result.output
    names = sorted(each.name for each in tmp_path.iterdir())
    answers = ["edited-0.png", "edited-1.png", "edited-2.png"]
    assert names == [*answers, "edited-sheet.png", "mask.png", "photo.png"]
    before = np.asarray(Image.open("photo.png"))
    found = [np.asarray(Image.open(name)) for name in answers]
    known = np.tri(8) == 0
    assert all(np.array_equal(each[known], before[known]) for each in found)
    assert not np.array_equal(found[0], found[1])


def test_the_same_seed_gives_the_same_answers_and_another_others(
    pinakes_command: Command, filling: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "photo.png", (8, 8))
    write_mask(tmp_path / "mask.png", (8, 8))
    for name, words in (("one", ""), ("again", "--batch-size 1"), ("other", "--seed 1")):
        result = pinakes_command(f"edit {filling} photo.png --mask mask.png --n 2 --out {name}.png {words}")
        assert result.exit_code == 0, result.output
    one, again, other = (
        np.asarray(Image.open(f"{name}-1.png"), dtype=int) for name in ("one", "again", "other")
    )
    assert abs(one - again).max() <= 1
    assert not np.array_equal(one, other)


def test_edit_says_that_it_enlarges(pinakes_command: Command, filling: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", (32, 20))
    write_mask(tmp_path / "mask.png", (32, 20))
    result = pinakes_command(f"edit {filling} photo.png --mask mask.png --out edited.png")
    assert result.exit_code == 0, result.output
    assert "filled at the 8x8 pixels of the run and enlarged to 20x32" in " ".join(result.output.split())
    assert Image.open("edited.png").size == (20, 32)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("photo.png --mask small.png --out new.png", "small.png: has 16x16 pixels, but photo.png has 20x32"),
        ("photo.png --mask black.png --out new.png", "black.png: marks nothing"),
        ("photo.png --mask none.png --out new.png", "none.png: there is no such file"),
        ("none.png --mask mask.png --out new.png", "none.png: there is no such file"),
        ("photo.png --mask mask.png --out photo.png", "photo.png: is there already"),
        ("photo.png --mask mask.png --out new", "new: its ending is none of an image's"),
    ],
)
def test_edit_says_what_cannot_be_done(
    words: str, said: str, pinakes_command: Command, filling: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "photo.png", (32, 20))
    write_mask(tmp_path / "mask.png", (32, 20))
    write_mask(tmp_path / "small.png", (16, 16))
    Image.new("L", (20, 32)).save(tmp_path / "black.png")
    before = sorted(tmp_path.iterdir())
    result = pinakes_command(f"edit {filling} {words}")
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.output.split())
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_fills_no_holes_is_refused(pinakes_command: Command, run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "photo.png", (8, 8))
    result = pinakes_command(f"edit {run} photo.png --mask photo.png --out new.png")
    assert result.exit_code == 2
    assert "DDPM is of the task generation and fills no holes" in " ".join(result.output.split())
