from collections.abc import Callable
from pathlib import Path

import pytest

from pinakes.data.layouts import listing, recognise
from pinakes.errors import UserError

Writer = Callable[..., Path]


def test_images_are_listed_sorted_whatever_the_case_of_their_ending(write: Writer, tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/1.png", "a.tiff"):
        write(name)
    (tmp_path / "notes.txt").touch()
    found = listing(tmp_path)
    assert found.images == ("a.tiff", "b/1.png", "b/2.JPG")
    assert found.others == {".txt": 1}
    assert found.tops == ["b"]


def test_hidden_files_and_folders_are_passed_over(write: Writer, tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", ".cache/c.png", "__MACOSX/d.png"):
        write(name)
    assert listing(tmp_path).images == ("a.png",)


def test_a_folder_that_leads_back_to_itself_is_listed_once(write: Writer, tmp_path: Path) -> None:
    write("a/x.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert listing(tmp_path).images == ("a/x.png",)


def test_a_linked_folder_is_followed(write: Writer, tmp_path: Path) -> None:
    write("elsewhere/x.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "class").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert listing(tmp_path / "set").images == ("class/x.png",)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is nothing in it; give a folder with images"):
        listing(tmp_path)


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    for name in ("1.heic", "2.heic", "notes"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"no image, only other files: 2 .heic, 1 notes; give a folder"):
        listing(tmp_path)


def test_layouts_are_recognised(parts: Path, pets: Path, write: Writer, tmp_path: Path) -> None:
    write("flat/1.png")
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "all.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "flat" / "package.json").write_text("{}")
    assert recognise(parts) == ("mvtec", parts)
    assert recognise(pets) == ("folder", pets)
    assert recognise(tmp_path / "flat") == ("folder", tmp_path / "flat")
    assert recognise(tmp_path / "boxes") == ("coco", tmp_path / "boxes")
    assert recognise(tmp_path / "boxes" / "all.json") == ("coco", tmp_path / "boxes" / "all.json")


def test_a_folder_that_holds_only_a_data_set_stands_for_it(write: Writer, tmp_path: Path) -> None:
    write("unpacked/screw/train/good/1.png")
    assert recognise(tmp_path / "unpacked") == ("mvtec", tmp_path / "unpacked" / "screw")


def test_a_set_with_masks_but_nothing_to_train_on_is_still_mvtec(write: Writer, tmp_path: Path) -> None:
    write("test/crack/1.png")
    write("ground_truth/crack/1_mask.png")
    assert recognise(tmp_path) == ("mvtec", tmp_path)


def test_a_folder_of_several_mvtec_sets_says_which_there_are(write: Writer, tmp_path: Path) -> None:
    for name in ("screw", "nut"):
        write(f"{name}/train/good/1.png")
    with pytest.raises(
        UserError, match=r"several MVTec sets \(nut, screw\); give one of them, such as mvtec:.*nut"
    ):
        recognise(tmp_path)


def test_a_single_image_is_no_data_set(write: Writer) -> None:
    with pytest.raises(UserError, match=r"x.png: is a single file; give the folder .*known layouts: MVTec"):
        recognise(write("x.png"))
