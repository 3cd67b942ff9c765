import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pinakes
from pinakes.data import load_data, tiles
from pinakes.data.images import read_image
from pinakes.data.tiles import TiledImages, Tiling, cut
from pinakes.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Images of 40 x 60 pixels in the layout of MVTec AD; the defect lies in the first 10 rows and columns."""
    rng = np.random.default_rng(0)
    root = tmp_path / "parts"
    names = ["train/good/0.png", "train/good/1.png", "test/good/0.png", "test/hole/0.png"]
    for name in names:
        save(root / name, rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    mask = np.zeros((40, 60), np.uint8)
    mask[2:10, 2:10] = 255
    save(root / "ground_truth/hole/0_mask.png", mask)
    return root


@pytest.mark.parametrize(("height", "width"), [(9, 20), (4, 3), (1, 1)])
def test_short_sides_are_filled_up_by_mirroring(height: int, width: int) -> None:
    pixels = np.arange(height * width).reshape(height, width)
    found = cut(pixels, 8, 0, 0)
    assert found.shape == (8, 8)
    for row in range(8):
        for column in range(8):
            mirrored = [
                place % (2 * side) if place % (2 * side) < side else 2 * side - 1 - place % (2 * side)
                for place, side in ((row, height), (column, width))
            ]
            assert found[row, column] == pixels[mirrored[0], mirrored[1]]


def test_samples_are_the_tiles_of_the_files(parts: Path) -> None:
    data = load_data(f"mvtec:{parts}?size=20&tile=20&overlap=0")
    assert (len(data.train), len(data.test or ())) == (2 * 6, 2 * 6)
    pixels = np.array(Image.open(parts / "train/good/1.png"))
    sample = data.train[6 + 4]
    assert sample["tile"].tolist() == [20, 20]
    expected = torch.from_numpy(pixels[20:40, 20:40].astype(np.float32) / 255).permute(2, 0, 1)
    assert torch.equal(sample["image"], expected)
    assert "tiles of 20 pixels" in data.layout


def test_masks_are_cut_alike_and_settle_the_labels(parts: Path) -> None:
    test = load_data(f"mvtec:{parts}?size=20&tile=20&overlap=0").test
    assert isinstance(test, TiledImages)
    assert test.labels == (0,) * 6 + (1, 0, 0, 0, 0, 0)
    assert Counter(test.kinds) == {"good": 6, "hole": 1, "normal": 5}
    for index in range(len(test)):
        sample = test[index]
        assert sample["label"] == test.labels[index]
        assert sample["kind"] == test.kinds[index]
        assert sample["mask"].sum() == (64 if test.labels[index] else 0)


def test_without_masks_there_is_no_test_part(parts: Path) -> None:
    (parts / "ground_truth/hole/0_mask.png").unlink()
    data = load_data(f"mvtec:{parts}?tile=20")
    assert data.test is None
    assert "no test part" in data.layout


def test_an_image_is_decoded_once_whatever_the_order(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(path: Path) -> np.ndarray:
        read.append(path.name)
        return read_image(path)

    monkeypatch.setattr(tiles, "read_image", counted)
    for _ in range(2):
        train = load_data(f"mvtec:{parts}?size=16&tile=20&overlap=0").train
        for index in (7, 0, 3, 8, 1):
            assert train[index]["image"].shape == (3, 16, 16)
    assert sorted(read) == ["0.png", "1.png"]


def test_changed_files_are_cut_anew(parts: Path) -> None:
    first = load_data(f"mvtec:{parts}?size=20&tile=20").train[0]["image"]
    save(parts / "train/good/0.png", np.zeros((40, 60, 3), np.uint8))
    second = load_data(f"mvtec:{parts}?size=20&tile=20").train[0]["image"]
    assert first.any()
    assert not second.any()


def test_deep_grey_images_keep_their_depth(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 20), dtype=np.uint16)
    for index in range(2):
        save(tmp_path / f"deep/train/good/{index}.png", pixels)
    data = load_data(f"mvtec:{tmp_path / 'deep'}?size=20&tile=20&channels=1")
    assert torch.equal(data.train[0]["image"][0], torch.from_numpy(pixels.astype(np.float32) / 65535))


@pytest.mark.parametrize(
    ("options", "named"),
    [("tile=0", "tile"), ("tile=8&overlap=8", "overlap"), ("overlap=8", "overlap"), ("tile=x", "tile")],
)
def test_options_that_make_no_tiles_are_named(parts: Path, options: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        load_data(f"mvtec:{parts}?{options}")


def test_made_images_are_not_cut() -> None:
    with pytest.raises(UserError, match="leave out tile"):
        load_data("textures?size=32&n=8&tile=16")


def test_fit_evaluate_and_predict_at_one_scale(parts: Path, tmp_path: Path) -> None:
    spec = f"mvtec:{parts}?size=32&tile=20&overlap=4"
    detector = pinakes.create("patchcore").fit(spec, out=tmp_path / "run", workers=1)
    assert set(detector.evaluate(spec)) >= {"auroc", "pixel_auroc"}
    image = parts / "test/hole/0.png"
    answer = detector.predict(image, tile=20, overlap=4)
    assert answer["map"][0].shape == (40, 60)
    tiles_of = load_data(spec).test
    assert isinstance(tiles_of, TiledImages)
    scores = [float(detector.predict(tiles_of[i]["image"])["score"]) for i in range(len(tiles_of))]
    of_image = [s for s, name in zip(scores, tiles_of.groups, strict=True) if name == "test/hole/0.png"]
    assert float(answer["score"]) == pytest.approx(max(of_image), rel=1e-4)
    assert json.loads((tmp_path / "run/method.json").read_text())["info"]["size"] == [32, 32]
    assert Tiling(20, 4).starts(40) == [0, 16, 20]
