import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pinakes.data import load_data
from pinakes.errors import UserError

Writer = Callable[..., Path]


def document(count: int = 2, **changes: Any) -> dict[str, Any]:
    """Annotations of images 12 x 16 called 0.png, 1.png, ...; one thing on each."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 12, "width": 16} for i in range(count)],
        "annotations": [
            {
                "id": 10 + i,
                "image_id": i,
                "category_id": 7,
                "bbox": [2, 3, 4, 6],
                "segmentation": [[2, 3, 6, 3, 6, 9, 2, 9]],
                "iscrowd": 0,
            }
            | changes
            for i in range(count)
        ],
        "categories": [{"id": 9, "name": "nut"}, {"id": 7, "name": "screw"}],
    }


@pytest.fixture
def boxes(write: Writer, tmp_path: Path) -> Path:
    """Ten images and one annotation file beside them."""
    for i in range(10):
        write(f"boxes/{i}.png")
    (tmp_path / "boxes/all.json").write_text(json.dumps(document(10)))
    return tmp_path / "boxes"


def rewrite(boxes: Path, **changes: Any) -> None:
    (boxes / "all.json").write_text(json.dumps(document(10, **changes)))


def test_boxes_are_corners_in_pixels_after_resizing(boxes: Path) -> None:
    data = load_data(f"coco:{boxes}?size=24x16")
    sample = data.train[0]
    assert set(sample) == {"image", "boxes", "labels", "path"}
    assert sample["image"].shape == (3, 24, 16)
    assert torch.equal(sample["boxes"], torch.tensor([[2.0, 6.0, 6.0, 18.0]]))
    assert torch.equal(sample["labels"], torch.tensor([0]))
    assert data.classes == ("screw", "nut")


def test_a_single_file_is_split_by_the_seed(boxes: Path) -> None:
    data = load_data(boxes)
    assert [len(part) for _, part in data.splits()] == [8, 2]
    assert "20% of the images held out for the test (seed 0)" in data.layout
    assert load_data(boxes / "all.json").test.paths == data.test.paths


def test_images_without_things_are_kept(boxes: Path) -> None:
    (boxes / "all.json").write_text(json.dumps(document(10) | {"annotations": []}))
    sample = load_data(f"coco:{boxes}?masks=true").train[0]
    assert sample["boxes"].shape == (0, 4)
    assert sample["masks"].shape == (0, 12, 16)


def test_masks_are_drawn_from_outlines(boxes: Path) -> None:
    (mask,) = load_data(f"coco:{boxes}?masks=true").train[0]["masks"]
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[3:9, 2:6] = True
    assert torch.equal(mask, expected)


def test_masks_are_read_from_run_lengths(boxes: Path) -> None:
    rewrite(boxes, segmentation={"size": [12, 16], "counts": [12 * 2 + 3, 6, 12 * 16 - 33]})
    (mask,) = load_data(f"coco:{boxes}?masks=true").train[0]["masks"]
    expected = torch.zeros(12, 16, dtype=torch.bool)
    expected[3:9, 2] = True
    assert torch.equal(mask, expected)


def test_regions_of_a_crowd_are_left_out(boxes: Path) -> None:
    rewrite(boxes, iscrowd=1)
    assert len(load_data(boxes).train[0]["boxes"]) == 0


def test_boxes_are_cut_at_the_border(boxes: Path) -> None:
    rewrite(boxes, bbox=[-3, 8, 10, 10])
    assert torch.equal(load_data(boxes).train[0]["boxes"], torch.tensor([[0.0, 8.0, 7.0, 12.0]]))


def test_the_folders_of_coco_itself_are_found(write: Writer, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for part in ("train2017", "val2017"):
        for i in range(2):
            write(f"{part}/{i}.png")
        for start in ("instances", "person_keypoints"):
            (tmp_path / f"annotations/{start}_{part}.json").write_text(json.dumps(document()))
    data = load_data(tmp_path)
    assert data.train.paths == ("train2017/0.png", "train2017/1.png")
    assert data.test.paths == ("val2017/0.png", "val2017/1.png")
    assert "with train, test annotations" in data.layout


def test_split_folders_with_their_own_annotations_are_found(write: Writer, tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        for i in range(2):
            write(f"{part}/{i}.png")
        (tmp_path / f"{part}/_annotations.coco.json").write_text(json.dumps(document()))
    data = load_data(tmp_path)
    assert [name for name, _ in data.splits()] == ["train", "val", "test"]
    assert data.val.paths == ("valid/0.png", "valid/1.png")


def test_the_folder_of_the_images_can_be_given(boxes: Path, write: Writer) -> None:
    for path in boxes.glob("*.png"):
        path.unlink()
    for i in range(10):
        write(f"boxes/else/where/{i}.png")
    with pytest.raises(
        UserError, match=r"all.json: its images, such as 0.png, are in none .*append \?images=FOLDER"
    ):
        load_data(boxes)
    assert load_data(f"{boxes}?images=else/where").train[0]["path"].startswith("else/where/")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category_id": 3}, r"0.png: annotation 10 has the category 3, which is not listed"),
        ({"bbox": [2, 3, 0, 6]}, r"0.png: annotation 10 has the box .* covers no pixel of the image"),
        ({"bbox": [20, 3, 2, 6]}, r"0.png: annotation 10 has the box .* covers no pixel"),
        ({"bbox": [1, 2]}, r"0.png: annotation 10 has the box .* four numbers were expected"),
        ({"bbox": [1, 2, "x", 3]}, r"four numbers were expected: left, top, width, height"),
        ({"image_id": 99}, r"all.json: annotation 10 is of an image that is not listed"),
        ({"segmentation": []}, r"annotation 10 has no outline .*leave out masks=true"),
        ({"segmentation": {"size": [12, 16], "counts": "abc"}}, "compressed outline; export polygons"),
        ({"segmentation": {"size": [12, 16], "counts": [3, 4]}}, "run lengths that do not add up"),
    ],
)
def test_a_bad_annotation_is_named(boxes: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(boxes, **changes)
    with pytest.raises(UserError, match=message):
        load_data(f"coco:{boxes}?masks=true")


def test_a_missing_image_is_named_and_can_be_left_out(boxes: Path) -> None:
    (boxes / "4.png").unlink()
    with pytest.raises(UserError, match=r"4.png: cannot be opened \(No such file.*--skip-bad"):
        load_data(boxes)
    data = load_data(boxes, skip_bad=True)
    assert [problem.path.name for problem in data.skipped] == ["4.png"]
    assert sum(len(part) for _, part in data.splits()) == 9


def test_an_image_of_another_size_than_its_annotations_say_is_named(boxes: Path, write: Writer) -> None:
    write("boxes/4.png", (16, 12))
    with pytest.raises(UserError, match=r"4.png: is 16 x 12 .* annotations say 12 x 16; annotate"):
        load_data(boxes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "has no list 'images', so it is not a COCO file"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\] has no 'file_name'"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=rf"x.json: {message}"):
        load_data(tmp_path / "x.json")


def test_a_folder_without_annotations_is_refused(pets: Path) -> None:
    with pytest.raises(UserError, match=r"no COCO annotation file \(.json\) in it; known layouts"):
        load_data(f"coco:{pets}")


def test_several_files_of_one_split_are_named(boxes: Path) -> None:
    (boxes / "more.json").write_text(json.dumps(document()))
    with pytest.raises(UserError, match=r"annotation files of no known split \(.*all.json, .*more.json\)"):
        load_data(boxes)


def test_splits_that_disagree_about_a_category_are_named(write: Writer, tmp_path: Path) -> None:
    for i in range(2):
        write(f"{i}.png")
    (tmp_path / "train.json").write_text(json.dumps(document()))
    other = document() | {"categories": [{"id": 7, "name": "bolt"}]}
    (tmp_path / "test.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="category 7 is 'bolt' here but 'screw' in another file"):
        load_data(tmp_path)
