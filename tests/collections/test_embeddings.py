import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pinakes
from pinakes import collections
from pinakes.collections.images import open_images
from pinakes.errors import UserError
from pinakes.method import Method
from tests.collections.conftest import SIZE, write_noise

INFO = pinakes.DataInfo(3, SIZE)
FORMATS = [
    ".npz",
    pytest.param(
        ".parquet",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed"
        ),
    ),
]


@pytest.mark.parametrize("suffix", FORMATS)
def test_embeddings_come_back(suffix: str, encoder: Method, tmp_path: Path) -> None:
    for index, name in enumerate(["b/é.png", "a/1.jpg", "a/2.png"]):
        write_noise(tmp_path / "in" / name, seed=index)
    embedded = collections.embed(encoder, tmp_path / "in", batch_size=2)
    rows = collections.read_embeddings(collections.write_embeddings(embedded, tmp_path / f"out/e{suffix}"))
    assert rows.paths == ("a/1.jpg", "a/2.png", "b/é.png")
    assert rows.classes == ("a", "a", "b")
    assert rows.embedding.dtype == np.float32
    files = [tmp_path / "in" / path for path in rows.paths]
    torch.testing.assert_close(
        torch.from_numpy(rows.embedding.copy()), encoder.predict(files)["embedding"], rtol=1e-4, atol=1e-5
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"e{suffix}"]


def test_every_image_of_a_folder_is_taken_whatever_the_layout(tmp_path: Path) -> None:
    names = ("x.png", "cat/1.png", "cat/more/2.png", "dog/1.png")
    for name in names:
        write_noise(tmp_path / "mixed" / name)
    images = open_images(tmp_path / "mixed", INFO)
    assert dict(zip(images.names, images.kinds, strict=True)) == {
        "x.png": "",
        "cat/1.png": "cat",
        "cat/more/2.png": "cat",
        "dog/1.png": "dog",
    }


def test_classes_lie_below_the_folders_of_the_parts(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/1.png", "test/cat/2.png"):
        write_noise(tmp_path / name)
    images = open_images(tmp_path, INFO)
    assert sorted(zip(images.names, images.kinds, strict=True)) == [
        ("test/cat/2.png", "cat"),
        ("train/cat/1.png", "cat"),
        ("train/dog/1.png", "dog"),
    ]


def test_masks_are_no_images(tmp_path: Path) -> None:
    for name in ("train/good/1.png", "test/good/2.png", "test/hole/3.png"):
        write_noise(tmp_path / name)
    mask = write_noise(tmp_path / "ground_truth/hole/3_mask.png")
    Image.open(mask).convert("L").save(mask)
    assert sorted(open_images(tmp_path, INFO).names) == [
        "test/good/2.png",
        "test/hole/3.png",
        "train/good/1.png",
    ]


def test_a_spec_gives_the_images_of_all_parts_in_the_channels_of_the_method() -> None:
    images = open_images("digits?n=20", pinakes.DataInfo(1, (16, 24)))
    assert len(images) == 60
    assert len(set(images.names)) == 60
    assert images[59]["image"].shape == (1, 16, 24)
    assert images.file(0) is None
    assert images.thumbnail(0, 12).size == (12, 8)
    with pytest.raises(UserError, match=r"channels=1"):
        open_images("digits?n=20&channels=3", pinakes.DataInfo(1, (16, 24)))


def test_a_bad_file_is_named_or_left_out(encoder: Method, tmp_path: Path) -> None:
    write_noise(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png"):
        collections.embed(encoder, tmp_path)
    embedded = collections.embed(encoder, tmp_path, skip_bad=True)
    assert embedded.images.names == ("good.png",)
    assert [problem.path.name for problem in embedded.images.skipped] == ["bad.png"]


def test_an_embedding_that_is_not_finite_is_an_error_that_names_the_image(tmp_path: Path) -> None:
    method = pinakes.create("random-weights").prepare(INFO)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(float("nan"))
    write_noise(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: its embedding is not finite"):
        collections.embed(method, tmp_path)


def test_a_thumbnail_keeps_its_proportions_and_is_turned_as_it_is_shown(tmp_path: Path) -> None:
    picture = Image.new("RGB", (100, 50), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    picture.save(tmp_path / "upright.jpg")
    images = open_images(tmp_path, INFO)
    assert [images.thumbnail(index, 20).size for index in range(2)] == [(10, 20), (20, 10)]


def test_a_file_of_another_kind_or_without_embeddings_is_refused(encoder: Method, tmp_path: Path) -> None:
    embedded = collections.embed(encoder, "digits?n=10")
    with pytest.raises(UserError, match=r"\.npz or \.parquet"):
        collections.write_embeddings(embedded, tmp_path / "e.csv")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match="holds no embeddings"):
        collections.read_embeddings(tmp_path / "other.npz")
    with pytest.raises(UserError, match="no such file"):
        collections.read_embeddings(tmp_path / "nothing.npz")
