"""A command line in this process, and small folders of images to give it."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from pinakes.cli.app import app

DATA = "textures?size=32&n=8"
Command = Callable[[str], Result]


def run_command(line: str) -> Result:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, shlex.split(line), prog_name="pinakes")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def pinakes_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line in a folder of its own, which is the test's `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PINAKES_DEBUG", raising=False)
    return run_command


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PINAKES_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that `pinakes fit` wrote; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "fitted"
    result = run_command(f"fit patchcore --data {shlex.quote(DATA)} --out {folder}")
    assert result.exit_code == 0, result.output
    return folder


def write_image(path: Path, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, size: tuple[int, int] = (32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, dtype=np.uint8)
    pixels[4:12, 4:12] = 255
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A small set in the layout of MVTec AD."""
    root = tmp_path / "parts"
    for index in range(4):
        write_image(root / f"train/good/{index}.png", seed=index)
    for index in range(2):
        write_image(root / f"test/good/{index}.png", seed=10 + index)
        write_image(root / f"test/hole/{index}.png", seed=20 + index)
        write_mask(root / f"ground_truth/hole/{index}_mask.png")
    return root
