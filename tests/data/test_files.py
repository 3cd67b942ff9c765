import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pinakes.data import load_data
from pinakes.data.base import SampleSet
from pinakes.errors import UserError

Writer = Callable[..., Path]


def test_images_of_one_small_size_keep_it(parts: Path) -> None:
    data = load_data(parts)
    assert data.size == (12, 16)
    assert data.train.native_sizes == {(12, 16): 3}
    image = data.train[0]["image"]
    assert image.shape == (3, 12, 16)
    assert image.dtype == torch.float32


@pytest.mark.parametrize("size", [(13, 16), (257, 8)], ids=["of two sizes", "large"])
def test_other_images_become_256_pixels_square(write: Writer, tmp_path: Path, size: tuple[int, int]) -> None:
    write("1.png", (257, 8))
    write("2.png", size)
    assert load_data(tmp_path).size == (256, 256)


def test_grey_images_have_three_channels_unless_one_is_asked_for(write: Writer, tmp_path: Path) -> None:
    write("1.png", mode="L")
    image = load_data(tmp_path).train[0]["image"]
    assert torch.equal(image[0], image[2])
    grey = load_data(f"{tmp_path}?channels=1")
    assert grey.channels == 1
    assert torch.equal(grey.train[0]["image"], image[:1])


def test_a_data_set_survives_pickling_and_is_small(pets: Path) -> None:
    data = load_data(pets)
    packed = pickle.dumps(data)
    assert len(packed) < 3000
    again = pickle.loads(packed)
    assert again.fingerprint() == data.fingerprint()
    assert torch.equal(again.train[0]["image"], data.train[0]["image"])


def test_a_data_set_is_a_sample_set_that_workers_can_read(parts: Path) -> None:
    data = load_data(parts)
    assert isinstance(data.test, SampleSet)
    batch = next(iter(DataLoader(data.test, batch_size=3, num_workers=1)))
    assert batch["mask"].shape == (3, 12, 16)
    assert batch["kind"] == ["good", "scratch", "scratch"]


def test_the_fingerprint_changes_with_a_file_its_name_and_the_size(parts: Path) -> None:
    path = parts / "train/good/0.png"
    prints = [load_data(parts).fingerprint(), load_data(parts, size=8).fingerprint()]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    prints.append(load_data(parts).fingerprint())
    path.rename(path.with_name("9.png"))
    prints.append(load_data(parts).fingerprint())
    assert len(set(prints)) == 4
    assert load_data(parts).fingerprint() == prints[-1]


def test_a_file_that_vanishes_after_loading_is_named(parts: Path) -> None:
    data = load_data(parts)
    (parts / "train/good/0.png").unlink()
    with pytest.raises(UserError, match=r"good/0.png: there is no such file"):
        data.train[0]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_of_too_many_pixels_is_named(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"train/good/0.png: has more than the 100 pixels .*--skip-bad"):
        load_data(parts)
