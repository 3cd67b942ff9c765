"""Small image files to load, and a cache folder of each test's own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of the test."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PINAKES_CACHE", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Writes an image of noise below `tmp_path`; `size` is height and width."""

    def writer(name: str, size: tuple[int, int] = (12, 16), mode: str = "RGB", **options: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(sum(name.encode()))
        shape = size if mode == "L" else (*size, len(mode))
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), mode=mode).save(path, **options)
        return path

    return writer


@pytest.fixture
def write_mask(tmp_path: Path) -> Writer:
    """Writes a mask that marks the upper left quarter."""

    def writer(name: str, size: tuple[int, int] = (12, 16), value: int = 255) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros(size, dtype=np.uint8)
        pixels[: size[0] // 2, : size[1] // 2] = value
        Image.fromarray(pixels).save(path)
        return path

    return writer


@pytest.fixture
def parts(write: Writer, write_mask: Writer, tmp_path: Path) -> Path:
    """A folder in the layout of MVTec AD: three training images, one good and two scratched ones to test."""
    for i in range(3):
        write(f"parts/train/good/{i}.png")
    write("parts/test/good/0.png")
    for i in range(2):
        write(f"parts/test/scratch/{i}.png")
        write_mask(f"parts/ground_truth/scratch/{i}_mask.png")
    return tmp_path / "parts"


@pytest.fixture
def pets(write: Writer, tmp_path: Path) -> Path:
    """A folder per class: ten cats and five dogs."""
    for i in range(10):
        write(f"pets/cat/{i}.jpg")
    for i in range(5):
        write(f"pets/dog/more/{i}.png")
    return tmp_path / "pets"
