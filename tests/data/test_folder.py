from collections.abc import Callable
from pathlib import Path

import pytest

from pinakes.data import load_data
from pinakes.errors import UserError

Writer = Callable[..., Path]


def test_without_split_folders_a_fifth_of_every_class_is_held_out(pets: Path) -> None:
    data = load_data(pets)
    assert data.classes == ("cat", "dog")
    assert data.layout == "a folder per class (2: cat, dog), of which 20% are held out for the test (seed 0)"
    assert data.train.kinds.count("cat") == 8
    assert data.test.kinds == ("cat", "cat", "dog")
    assert not set(data.train.paths) & set(data.test.paths)


def test_the_split_is_a_function_of_the_seed(pets: Path) -> None:
    tests = [load_data(pets, seed=seed).test.paths for seed in (0, 0, 1, 2)]
    assert tests[0] == tests[1]
    assert len(set(tests)) > 1


def test_split_folders_are_used_whatever_they_are_called(write: Writer, tmp_path: Path) -> None:
    for part in ("Training", "valid", "test"):
        for kind in "ab":
            write(f"{part}/{kind}/1.png")
    data = load_data(tmp_path)
    assert [name for name, _ in data.splits()] == ["train", "val", "test"]
    assert "with train, val, test folders" in data.layout
    assert data.val.paths == ("valid/a/1.png", "valid/b/1.png")


def test_a_validation_folder_without_a_test_folder_serves_to_test(write: Writer, tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(f"{part}/a/1.png")
    data = load_data(tmp_path)
    assert data.val is None
    assert data.test.paths == ("val/a/1.png",)


def test_a_class_may_be_called_train(write: Writer, tmp_path: Path) -> None:
    for kind in ("car", "train"):
        write(f"{kind}/1.png")
    assert load_data(tmp_path).classes == ("car", "train")


def test_a_flat_folder_has_no_labels_and_no_test(write: Writer, tmp_path: Path) -> None:
    write("1.png")
    data = load_data(tmp_path)
    assert data.test is None
    assert data.classes == ()
    assert set(data.train[0]) == {"image", "path"}


def test_flat_split_folders_have_no_labels(write: Writer, tmp_path: Path) -> None:
    write("train/1.png")
    write("test/1.png")
    data = load_data(tmp_path)
    assert data.test.paths == ("test/1.png",)
    assert "label" not in data.test[0]


def test_a_class_can_be_named_normal(pets: Path) -> None:
    data = load_data(f"folder:{pets}?normal=dog")
    assert data.classes == ("normal", "anomalous")
    assert set(data.train.kinds) == {"dog"}
    assert set(data.train.labels) == {0}
    assert (data.test.kinds.count("dog"), data.test.kinds.count("cat")) == (1, 10)
    assert all(
        label == (kind == "cat") for label, kind in zip(data.test.labels, data.test.kinds, strict=True)
    )


def test_with_split_folders_the_normal_class_is_trained_on_and_the_test_folder_tested(
    write: Writer, tmp_path: Path
) -> None:
    for part in ("train", "val", "test"):
        for kind in "ab":
            write(f"{part}/{kind}/1.png")
    data = load_data(f"folder:{tmp_path}?normal=b")
    assert data.train.paths == ("train/b/1.png",)
    assert data.val.paths == ("val/b/1.png",)
    assert data.test.labels == (1, 0)


def test_an_anomalous_class_needs_no_training_images(write: Writer, tmp_path: Path) -> None:
    for name in ("train/ok/1.png", "test/ok/1.png", "test/bad/1.png"):
        write(name)
    with pytest.raises(UserError, match=r"'bad' has no training images.*append \?normal=ok"):
        load_data(tmp_path)
    assert load_data(f"folder:{tmp_path}?normal=ok").test.kinds == ("bad", "ok")


def test_an_unknown_normal_class_is_named(pets: Path) -> None:
    with pytest.raises(UserError, match="no training images of class 'cats'; did you mean 'cat'"):
        load_data(f"folder:{pets}?normal=cats")


def test_images_beside_class_folders_are_named(pets: Path, write: Writer) -> None:
    write("pets/lost.png")
    with pytest.raises(UserError, match=r"lost.png lie beside folders of images \(cat, dog\).*known layouts"):
        load_data(pets)


def test_images_beside_the_class_folders_of_a_split_are_named(write: Writer, tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/2.png", "test/a/1.png"):
        write(name)
    with pytest.raises(UserError, match="train: images lie beside class folders; move them"):
        load_data(tmp_path)
