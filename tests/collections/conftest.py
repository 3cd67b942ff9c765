"""A method that gives embeddings at once, and folders of photographs that come with the dependencies."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pinakes
from pinakes.method import Method
from pinakes.tasks.base import to_pixels

SIZE = (32, 32)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def encoder() -> Method:
    """A method of the task representation, with the weights that it was initialised with."""
    method: Method = pinakes.create("random-weights").prepare(pinakes.DataInfo(3, SIZE))
    return method.eval()


def photographs(count: int, side: int = 64) -> list[Image.Image]:
    """Different pieces of photographs."""
    data = pinakes.load_data(f"textures?size={side}&n={count}")
    return [Image.fromarray(to_pixels(data.train[index]["image"])) for index in range(count)]


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, set[frozenset[str]]]:
    """A folder of 200 photographs with copies of 24 of them (as they are, smaller, compressed), and which belong
    together."""
    root, together = tmp_path / "photos", set()
    for index, image in enumerate(photographs(200)):
        original = root / ("left" if index % 2 else "right") / f"{index:03d}.png"
        original.parent.mkdir(parents=True, exist_ok=True)
        image.save(original)
        if index % 8 == 0 and index < 192:
            copy = root / "copies" / f"{index:03d}{('.png', '.bmp', '.jpg')[index // 8 % 3]}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            smaller = image.resize((48, 48), Image.Resampling.BICUBIC)
            (smaller if copy.suffix == ".bmp" else image).save(copy)
            together.add(frozenset(path.relative_to(root).as_posix() for path in (original, copy)))
    return root, together


def write_noise(path: Path, size: tuple[int, int] = (40, 32), seed: int = 0) -> Path:
    """Writes an image of noise; `size` is height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path
