from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pinakes.data import load_data
from pinakes.errors import UserError

Writer = Callable[..., Path]


def test_samples_have_label_kind_mask_and_path(parts: Path) -> None:
    data = load_data(parts)
    assert data.classes == ("normal", "anomalous")
    assert data.layout == "MVTec AD layout, with masks, kinds of defect: scratch"
    assert [len(part) for _, part in data.splits()] == [3, 3]
    good, scratched = data.test[0], data.test[1]
    assert (good["label"], good["kind"], good["path"]) == (0, "good", "test/good/0.png")
    assert (scratched["label"], scratched["kind"]) == (1, "scratch")
    assert scratched["label"].dtype == torch.int64
    assert not good["mask"].any()
    assert scratched["mask"].dtype == torch.bool
    assert torch.equal(scratched["mask"].nonzero().amax(0), torch.tensor([5, 7]))
    assert not data.train[0]["mask"].any()


def test_masks_may_bear_the_name_of_the_image(parts: Path) -> None:
    for mask in (parts / "ground_truth" / "scratch").iterdir():
        with Image.open(mask) as image:
            image.save(mask.with_name(mask.stem.removesuffix("_mask") + ".bmp"))
        mask.unlink()
    assert load_data(parts).test[2]["mask"].any()


def test_a_set_without_masks_has_samples_without_masks(parts: Path) -> None:
    for mask in (parts / "ground_truth" / "scratch").iterdir():
        mask.unlink()
    data = load_data(parts)
    assert "without masks" in data.layout
    assert "mask" not in data.test[1]


def test_a_set_without_a_test_folder_can_be_trained_on(write: Writer, tmp_path: Path) -> None:
    write("train/good/1.png")
    data = load_data(f"mvtec:{tmp_path}")
    assert data.test is None
    assert "no anomalous test images" in data.layout


def refused(parts: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(f"mvtec:{parts}")


def left_out(parts: Path) -> list[str]:
    data = load_data(f"mvtec:{parts}", skip_bad=True)
    assert all(torch.isfinite(sample["image"]).all() for sample in data.test)
    return [problem.path.relative_to(parts).as_posix() for problem in data.skipped]


def test_an_anomalous_image_without_a_mask_is_named(parts: Path) -> None:
    (parts / "ground_truth/scratch/1_mask.png").unlink()
    refused(parts, r"test/scratch/1.png: has no mask; add ground_truth/scratch/1_mask.png; .*--skip-bad")
    assert left_out(parts) == ["test/scratch/1.png"]


def test_a_mask_without_an_image_is_named(parts: Path, write_mask: Writer) -> None:
    write_mask("parts/ground_truth/scratch/7_mask.png")
    refused(parts, r"7_mask.png: the mask has no image of that name in test/; .*--skip-bad")
    assert left_out(parts) == ["ground_truth/scratch/7_mask.png"]


def test_a_mask_of_another_size_is_named(parts: Path, write_mask: Writer) -> None:
    write_mask("parts/ground_truth/scratch/0_mask.png", (12, 15))
    refused(parts, r"0_mask.png: the mask is 12 x 15 .*its image test/scratch/0.png is 12 x 16; .*--skip-bad")
    assert left_out(parts) == ["ground_truth/scratch/0_mask.png"]


def test_a_mask_drawn_on_the_image_before_its_exif_rotation_is_named(parts: Path, write: Writer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write("parts/test/scratch/0.png", exif=exif)
    refused(
        parts, r"0_mask.png: .* is 16 x 12 once turned as its EXIF tag says; draw the mask .*as it is shown"
    )


def test_a_mask_that_marks_nothing_is_mentioned(parts: Path, write_mask: Writer) -> None:
    write_mask("parts/ground_truth/scratch/0_mask.png", value=0)
    assert "1 masks mark no pixel (ground_truth/scratch/0_mask.png)" in load_data(parts).layout


@pytest.mark.parametrize(
    "name", ["train/good/1.png", "test/scratch/0.png", "ground_truth/scratch/0_mask.png"]
)
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"text", "is not an image"), (None, "is damaged or cut short")],
    ids=["empty", "text", "cut"],
)
def test_a_file_that_cannot_be_read_is_named(
    parts: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = parts / name
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    refused(parts, rf"{name}: {reason}.*; replace the file, or leave such files out with --skip-bad")
    assert left_out(parts) == [name]


def test_further_bad_files_are_named_after_the_first(parts: Path) -> None:
    for i in range(2):
        (parts / f"train/good/{i}.png").write_bytes(b"")
    refused(parts, r"good/0.png: is empty .* \(files with problems besides: .*good/1.png\)")


def test_nothing_left_to_train_on_is_an_error_even_when_skipping(parts: Path) -> None:
    for path in (parts / "train/good").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no usable image is left to train on \(files with problems"):
        load_data(parts, skip_bad=True)


def test_training_images_that_are_not_good_are_named(parts: Path, write: Writer) -> None:
    write("parts/train/bent/1.png")
    refused(parts, r"train/bent: training images must be good ones; move it to test/bent")


def test_test_images_outside_a_folder_are_named(parts: Path, write: Writer) -> None:
    write("parts/test/1.png")
    refused(parts, r"test/1.png: lies directly in test/; move it to test/good or test/KIND")


def test_another_layout_is_refused_with_what_was_found(pets: Path) -> None:
    refused(pets, r"no image in train/good, but in cat, dog; known layouts: MVTec AD .*COCO")
