import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from pinakes.cli.app import app
from pinakes.data import load_data
from pinakes.data.layouts import recognise
from pinakes.data.summary import contact_sheet, describe
from pinakes.errors import UserError
from pinakes.tasks import get

Writer = Callable[..., Path]
SIZE = (12, 16)


def values(*numbers: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask with one upright stripe for each number."""
    return np.array(numbers, dtype=np.uint8)[np.arange(size[1]) * len(numbers) // size[1]][None].repeat(
        size[0], axis=0
    )


@pytest.fixture
def write_classes(tmp_path: Path) -> Writer:
    """Writes a mask with stripes of the given class numbers."""

    def writer(name: str, *numbers: int, size: tuple[int, int] = SIZE) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values(*numbers, size=size)).save(path)
        return path

    return writer


@pytest.fixture
def fields(write: Writer, write_classes: Writer, tmp_path: Path) -> Path:
    """Ten images with masks of three classes; a few pixels have none."""
    for i in range(10):
        write(f"fields/images/{i}.jpg")
        write_classes(f"fields/masks/{i}.png", 0, 1, 2, 255)
    return tmp_path / "fields"


def refused(folder: Path, message: str, options: str = "") -> None:
    with pytest.raises(UserError, match=message):
        load_data(f"masks:{folder}{options}")


def left_out(folder: Path) -> list[str]:
    data = load_data(f"masks:{folder}", skip_bad=True)
    for _, part in data.splits():
        for sample in part:
            assert sample["semantic"].max() < len(data.classes)
    return [problem.path.relative_to(folder).as_posix() for problem in data.skipped]


def test_samples_have_a_class_for_every_pixel(fields: Path) -> None:
    data = load_data(fields)
    assert data.spec == f"masks:{fields}"
    assert data.classes == ("class 0", "class 1", "class 2")
    assert data.size == SIZE
    sample = data.train[0]
    assert set(sample) == {"image", "semantic", "path"}
    assert sample["image"].shape == (3, *SIZE)
    assert sample["semantic"].dtype == torch.int64
    assert torch.equal(sample["semantic"][5], torch.tensor([0, 1, 2, -1]).repeat_interleave(4))
    assert data.layout == (
        "images with masks of 3 classes (class 0 25%, class 1 25%, class 2 25% of the pixels; 25% have no class), "
        "of which 20% are held out for the test (seed 0)"
    )


def test_without_split_folders_a_fifth_is_held_out_by_the_seed(fields: Path) -> None:
    first, again, other = (load_data(fields, seed=seed) for seed in (0, 0, 3))
    assert [len(part) for _, part in first.splits()] == [8, 2]
    assert not set(first.train.paths) & set(first.test.paths)
    assert first.test.paths == again.test.paths != other.test.paths


@pytest.mark.parametrize(
    ("images", "masks"), [("{}/images", "{}/masks"), ("images/{}", "masks/{}")], ids=["beside", "within"]
)
def test_split_folders_are_used(
    images: str, masks: str, write: Writer, write_classes: Writer, tmp_path: Path
) -> None:
    for part in ("train", "val", "test"):
        write(f"{images.format(part)}/a/{part}.jpg")
        write_classes(f"{masks.format(part)}/a/{part}.png", 0, 1)
    data = load_data(tmp_path)
    assert {name: part.paths for name, part in data.splits()} == {
        part: (f"{images.format(part)}/a/{part}.jpg",) for part in ("train", "val", "test")
    }
    assert data.layout.endswith("with train, val, test folders")
    assert data.test[0]["semantic"].unique().tolist() == [0, 1]


def test_a_validation_folder_without_a_test_folder_serves_to_test(
    write: Writer, write_classes: Writer, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        write(f"{part}/images/1.png")
        write_classes(f"{part}/masks/1.png", 0, 1)
    data = load_data(tmp_path)
    assert data.val is None
    assert data.test.paths == ("val/images/1.png",)


def test_masks_may_have_a_suffix_and_another_ending_and_lie_deeper(
    write: Writer, write_classes: Writer, tmp_path: Path
) -> None:
    write("images/a/1.png")
    write("images/b/1.png")
    write_classes("masks/a/1_mask.bmp", 0, 1)
    write_classes("masks/b/1.gif", 1, 0)
    data = load_data(tmp_path)
    first = {
        sample["path"]: int(sample["semantic"][0, 0]) for part in (data.train, data.test) for sample in part
    }
    assert first == {"images/a/1.png": 0, "images/b/1.png": 1}


def test_the_ignored_value_can_be_chosen(fields: Path) -> None:
    (fields / "classes.txt").write_text("rest\ncrop\nweed")
    for mask in (fields / "masks").iterdir():
        Image.fromarray(values(0, 1, 2, 2)).save(mask)
    data = load_data(f"masks:{fields}?ignore=0")
    assert data.classes == ("rest", "crop", "weed")
    assert data.train[0]["semantic"].unique().tolist() == [-1, 1, 2]
    assert "(crop 25%, weed 50% of the pixels; 25% have no class" in data.layout
    whole = load_data(f"masks:{fields}?ignore=-1")
    assert whole.train[0]["semantic"].unique().tolist() == [0, 1, 2]
    assert whole.train.fingerprint() != data.train.fingerprint()
    refused(fields, "'ignore' must be from 0 to 255, or -1 for none, got 256", "?ignore=256")


def test_masks_are_stretched_by_the_nearest_pixel(fields: Path) -> None:
    sample = load_data(f"masks:{fields}?size=24x32").train[0]
    assert sample["image"].shape == (3, 24, 32)
    assert torch.equal(sample["semantic"][3], torch.tensor([0, 1, 2, -1]).repeat_interleave(8))


def test_of_a_palette_the_places_count_and_not_the_colours(fields: Path) -> None:
    mask = Image.fromarray(values(0, 1, 2, 255)).convert("P")
    for path in (fields / "masks").iterdir():
        mask = Image.fromarray(values(0, 1, 2, 255))
        mask.putpalette([200, 10, 10, 200, 10, 10, 7, 200, 7] + [0] * (3 * 253))
        assert mask.mode == "P"
        mask.save(path)
    assert load_data(fields).train[0]["semantic"].unique().tolist() == [-1, 0, 1, 2]


def grey_png(pixels: np.ndarray, bits: int) -> bytes:
    """A grey PNG of 1, 2, 4 or 8 bits a pixel."""
    rows = np.unpackbits(pixels[..., None], axis=2)[..., 8 - bits :].reshape(len(pixels), -1)
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_numbers_are_read_as_stored_whatever_the_bits(fields: Path, bits: int) -> None:
    numbers = list(range(min(2**bits, 8)))
    for path in (fields / "masks").iterdir():
        path.write_bytes(grey_png(values(*numbers), bits))
    assert load_data(fields).train[0]["semantic"].unique().tolist() == numbers


def test_classes_are_named_by_a_file(fields: Path) -> None:
    (fields / "classes.txt").write_text(
        "soil \nwheat\n\N{LATIN SMALL LETTER U WITH DIAERESIS}ppig\n\n", "utf-8-sig"
    )
    assert load_data(fields).classes == ("soil", "wheat", "üppig")


def test_a_value_beyond_the_names_is_named_with_its_file(fields: Path, write_classes: Writer) -> None:
    (fields / "classes.txt").write_text("soil\nwheat\nweed\n")
    write_classes("fields/masks/4.png", 0, 7)
    refused(
        fields, r"masks/4.png: has the value 7, but classes.txt names only 0 to 2; add a line.*--skip-bad"
    )
    assert left_out(fields) == ["masks/4.png"]


def test_a_name_beyond_the_values_is_named_with_its_line(fields: Path) -> None:
    (fields / "classes.txt").write_text("soil\nwheat\nweed\nstone\n")
    refused(
        fields,
        r"classes.txt: line 4 names 'stone', but no mask has the value 3; remove the line.*; 255 is taken for no class",
    )


def test_names_are_not_refused_for_a_mask_that_could_not_be_read(fields: Path, write_classes: Writer) -> None:
    (fields / "classes.txt").write_text("soil\nwheat\nweed\nstone\n")
    write_classes("fields/masks/4.png", 0, 3).write_bytes(b"")
    assert left_out(fields) == ["masks/4.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb", r"classes.txt: line 2 is empty; give one name a line"),
        (b"a\nb\na", r"classes.txt: line 3 names 'a' again"),
        (b"\xff\xfe\x00", r"classes.txt: cannot be read .* UTF-8"),
        (b"", r"classes.txt names|at least two are needed"),
    ],
    ids=["gap", "twice", "no text", "empty"],
)
def test_a_file_of_names_that_cannot_be_used_is_refused(fields: Path, content: bytes, message: str) -> None:
    (fields / "classes.txt").write_bytes(content)
    refused(fields, message)


def test_a_gap_in_the_numbers_is_an_error_unless_the_classes_are_named(
    fields: Path, write_classes: Writer
) -> None:
    write_classes("fields/masks/4.png", 0, 4)
    refused(
        fields, r"masks/4.png: has the value 4, but no mask has 3; number the classes .* or name every number"
    )
    (fields / "classes.txt").write_text("a\nb\nc\nd\ne")
    assert load_data(fields).classes == ("a", "b", "c", "d", "e")


def test_a_damaged_mask_is_named_before_what_its_loss_makes_of_the_others(
    fields: Path, write_classes: Writer
) -> None:
    write_classes("fields/masks/3.png", 0, 4)
    write_classes("fields/masks/4.png", 0, 3).write_bytes(b"")
    refused(fields, r"masks/4.png: is empty")
    assert left_out(fields) == ["masks/4.png"]


def test_black_and_white_masks_say_that_white_is_no_class(fields: Path) -> None:
    for path in (fields / "masks").iterdir():
        Image.fromarray(values(0, 255)).save(path)
    message = (
        r"0.png: has no class but 0, .* at least two are needed; 255 is taken for no class \(\?ignore=255\)"
    )
    refused(fields, message + ", so a class with that value needs another number")


def test_masks_without_any_class_are_refused(fields: Path) -> None:
    for path in (fields / "masks").iterdir():
        Image.fromarray(values(255)).save(path)
    refused(fields, r"0.png: has no class at any pixel, as no mask has; 255 is taken for no class")


def test_a_mask_without_a_class_at_any_pixel_is_mentioned(fields: Path, write_classes: Writer) -> None:
    write_classes("fields/masks/4.png", 255)
    assert "; 1 masks have no class at any pixel (masks/4.png)" in load_data(fields).layout


def test_an_image_without_a_mask_is_named(fields: Path) -> None:
    (fields / "masks/4.png").unlink()
    refused(fields, r"images/4.jpg: has no mask; add masks/4.png; .*--skip-bad")
    assert left_out(fields) == ["images/4.jpg"]


def test_a_mask_without_an_image_is_named(fields: Path) -> None:
    (fields / "images/4.jpg").unlink()
    refused(fields, r"masks/4.png: the mask has no image of that name in images/; .*--skip-bad")
    assert left_out(fields) == ["masks/4.png"]


def test_an_image_with_several_masks_is_named(fields: Path, write_classes: Writer) -> None:
    write_classes("fields/masks/4_mask.png", 0, 1)
    refused(fields, r"images/4.jpg: has several masks \(masks/4.png, masks/4_mask.png\); keep one of them")
    assert left_out(fields) == ["images/4.jpg"]


def test_images_that_share_a_mask_are_named(fields: Path, write: Writer) -> None:
    write("fields/images/4.png")
    refused(fields, r"images/4.jpg: shares its mask masks/4.png with another image of that name")
    assert left_out(fields) == ["images/4.jpg", "images/4.png"]


def test_a_mask_of_another_size_is_named(fields: Path, write_classes: Writer) -> None:
    write_classes("fields/masks/4.png", 0, 1, size=(12, 15))
    refused(fields, r"masks/4.png: the mask is 12 x 15 .*its image images/4.jpg is 12 x 16; .*--skip-bad")
    assert left_out(fields) == ["masks/4.png"]


def test_a_mask_drawn_on_the_image_before_its_exif_rotation_is_named(fields: Path, write: Writer) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write("fields/images/4.jpg", exif=exif)
    refused(fields, r"4.png: .* is 16 x 12 once turned as its EXIF tag says; draw the mask .*as it is shown")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "CMYK"])
def test_a_mask_of_colours_or_of_more_bits_is_named(fields: Path, mode: str) -> None:
    mask = Image.fromarray(values(0, 1))
    made = Image.fromarray(values(0, 1).astype(np.uint16)) if mode == "I;16" else mask.convert(mode)
    made.save(fields / "masks/4.tif")
    (fields / "masks/4.png").unlink()
    refused(
        fields,
        rf"4.tif: has the pixel format {mode}, which holds no class numbers; save the mask as 8-bit grey",
    )
    assert left_out(fields) == ["masks/4.tif"]


def test_a_jpeg_is_no_mask(fields: Path) -> None:
    Image.fromarray(values(0, 1)).save(fields / "masks/4.jpg")
    (fields / "masks/4.png").unlink()
    refused(fields, r"masks/4.jpg: is a JPEG, whose compression changes class numbers; save the mask as PNG")


@pytest.mark.parametrize("name", ["images/4.jpg", "masks/4.png"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"text", "is not an image"), (None, "is damaged or cut short|is not an image")],
    ids=["empty", "text", "cut"],
)
def test_a_file_that_cannot_be_read_is_named(
    fields: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = fields / name
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    refused(fields, rf"{name}: ({reason}).*; replace the file, or leave such files out with --skip-bad")
    assert left_out(fields) == [name]


def test_nothing_left_to_train_on_is_an_error_even_when_skipping(fields: Path) -> None:
    for path in (fields / "masks").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no usable image is left to train on \(files with problems"):
        load_data(fields, skip_bad=True)


def test_a_mask_damaged_after_it_was_checked_is_named(fields: Path) -> None:
    data = load_data(fields)
    for path in (fields / "masks").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"png: is empty"):
        data.train[0]


def test_the_fingerprint_changes_with_a_mask(fields: Path) -> None:
    before, again = load_data(fields).fingerprint(), load_data(fields).fingerprint()
    for path in (fields / "masks").iterdir():
        Image.fromarray(values(2, 1, 0, 0, 0)).save(path)
    assert before == again != load_data(fields).fingerprint()


def test_the_layout_is_recognised(fields: Path, write: Writer, write_classes: Writer, tmp_path: Path) -> None:
    write("split/train/images/1.png")
    write_classes("split/train/masks/1.png", 0, 1)
    assert recognise(fields) == ("masks", fields)
    assert recognise(tmp_path / "split") == ("masks", tmp_path / "split")


def test_another_layout_is_refused_with_what_was_found(pets: Path) -> None:
    refused(pets, r"no images/ and no masks/, but cat, dog; known layouts: .*masks/x.png")


def test_images_at_the_top_and_in_parts_are_refused(fields: Path, write: Writer) -> None:
    write("fields/test/images/1.png")
    refused(fields, r"both at the top, such as images/0.jpg, and in test; move all")


def test_parts_of_other_names_are_refused(write: Writer, write_classes: Writer, tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write(f"{part}/images/1.png")
        write_classes(f"{part}/masks/1.png", 0, 1)
    refused(tmp_path, r"valid: is none of train, val, test; rename it")


def test_a_test_part_alone_is_refused(write: Writer, write_classes: Writer, tmp_path: Path) -> None:
    write("test/images/1.png")
    write_classes("test/masks/1.png", 0, 1)
    refused(tmp_path, r"nothing to train on, only test; add train/images")


def test_images_elsewhere_are_mentioned(fields: Path, write: Writer) -> None:
    write("fields/overlays/1.png")
    assert load_data(fields).layout.endswith("; 1 images elsewhere are not used (overlays/1.png)")


def test_tiles_are_refused(fields: Path) -> None:
    refused(fields, "only images in files with a label or a mask each can be cut; leave out tile", "?tile=4")


def test_a_summary_and_a_contact_sheet_are_made(fields: Path) -> None:
    data = load_data(fields)
    found = describe(data)
    assert json.loads(json.dumps(found)) == found
    assert found["native_sizes"] == [{"height": 12, "width": 16, "count": 10}]
    assert {name: part["count"] for name, part in found["splits"].items()} == {"train": 8, "test": 2}
    assert contact_sheet(data) == contact_sheet(data, get("segmentation"))


def test_the_command_line_says_what_was_recognised_and_what_cannot_be_used(
    fields: Path, tmp_path: Path
) -> None:
    run = CliRunner().invoke(
        app, ["data", str(fields), "--task", "segmentation", "--out", str(tmp_path / "look")]
    )
    assert run.exit_code == 0, run.output
    assert "images with masks of 3 classes" in run.output.replace("\n", " ")
    assert (tmp_path / "look/contact_sheet.png").is_file()
    (fields / "masks/4.png").unlink()
    run = CliRunner().invoke(app, ["data", str(fields)])
    assert run.exit_code != 0
    assert "has no mask" in f"{run.output} {run.exception}".replace("\n", " ")
