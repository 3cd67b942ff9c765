import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pinakes.data import DataInfo, load_images
from pinakes.errors import UserError

Writer = Callable[..., Path]
INFO = DataInfo(channels=3, size=(8, 10))


def test_samples_have_image_path_and_original_size(write: Writer) -> None:
    path = write("x.png", (12, 16))
    (sample,) = load_images(path, INFO)
    assert sample["image"].shape == (3, 8, 10)
    assert sample["path"] == str(path)
    assert torch.equal(sample["original_size"], torch.tensor([12, 16]))


def test_folders_are_searched_through_and_sorted_and_files_keep_their_order(
    write: Writer, tmp_path: Path
) -> None:
    for name in ("in/b.png", "in/a/c.jpg", "z.png", "y.png"):
        write(name)
    (tmp_path / "in/notes.txt").touch()
    found = load_images([tmp_path / "z.png", str(tmp_path / "in"), tmp_path / "y.png"], INFO)
    names = [Path(path).relative_to(tmp_path).as_posix() for path in found.paths]
    assert names == ["z.png", "in/a/c.jpg", "in/b.png", "y.png"]


def test_an_image_given_twice_is_taken_once(write: Writer, tmp_path: Path) -> None:
    path = write("a.png")
    assert len(load_images([path, tmp_path], INFO)) == 1


def test_a_named_file_is_read_whatever_its_ending(write: Writer) -> None:
    path = write("x.png")
    assert len(load_images(path.rename(path.with_suffix("")), INFO)) == 1


def test_a_bad_file_is_named_or_left_out(write: Writer, tmp_path: Path) -> None:
    write("a.png")
    (tmp_path / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b.png: is empty .*; replace the file, or .* --skip-bad"):
        load_images(tmp_path, INFO)
    found = load_images(tmp_path, INFO, skip_bad=True)
    assert len(found) == 1
    assert [problem.path.name for problem in found.skipped] == ["b.png"]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.png: no such file or folder; check the path"):
        load_images(tmp_path / "none.png", INFO)
    with pytest.raises(UserError, match=r"there is nothing in it"):
        load_images(tmp_path, INFO)
    with pytest.raises(UserError, match=r"no image to predict on; give image files or folders"):
        load_images([], INFO)


def test_the_set_survives_pickling(write: Writer) -> None:
    found = pickle.loads(pickle.dumps(load_images(write("a.png"), INFO)))
    assert found[0]["image"].shape == (3, 8, 10)
