import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pinakes.data.images import mask_to_tensor, read_image, read_mask, to_tensor
from pinakes.errors import UserError

Writer = Callable[..., Path]


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    ending=st.sampled_from(["png", "tiff", "jpg", "webp", "bmp", "gif"]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_whatever_pillow_saves_is_read(
    tmp_path: Path, mode: str, ending: str, height: int, width: int, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    grey = Image.fromarray(noise[..., 0])
    image = (
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(noise).convert(mode if mode not in {"1", "LA"} else "L").convert(mode)
    )
    path = tmp_path / f"x.{ending}"
    try:
        image.save(path)
    except (OSError, ValueError):
        grey.save(path)
    pixels = read_image(path)
    assert pixels.shape[:2] == (height, width)
    assert pixels.dtype == np.uint8 or (pixels.min() >= 0 and pixels.max() <= 1)
    tensor = to_tensor(pixels, (9, 7), 3)
    assert tensor.shape == (3, 9, 7)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= 0
    assert tensor.max() <= 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(
    ending=st.sampled_from(["png", "jpeg", "webp", "tiff", "gif", "bmp"]),
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_damaged_bytes_are_read_or_refused_with_a_user_error(
    tmp_path: Path, ending: str, places: list[tuple[float, int]], cut: float
) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.arange(32 * 24 * 3, dtype=np.uint8).reshape(32, 24, 3)).save(whole, ending)
    data = bytearray(whole.getvalue())
    for place, value in places:
        data[int(place * (len(data) - 1))] = value
    path = tmp_path / f"x.{ending}"
    path.write_bytes(data[: int(cut * len(data)) if cut < 0.5 else len(data)])
    message = ""
    try:
        read_image(path)
    except UserError as error:
        message = str(error)
    assert not message or (message.startswith(str(path)) and "--skip-bad" in message)


def test_sixteen_bits_are_scaled_by_their_range_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    for ending in ("png", "tiff"):
        pixels = read_image(saved(Image.fromarray(values), tmp_path / f"x.{ending}"))
        np.testing.assert_allclose(pixels, values / 65535, rtol=1e-6)


def test_floats_in_the_unit_range_are_kept(tmp_path: Path) -> None:
    values = np.array([[0, 0.25, 1]], dtype=np.float32)
    np.testing.assert_array_equal(read_image(saved(Image.fromarray(values), tmp_path / "x.tiff")), values)


@pytest.mark.parametrize("value", [-0.5, 200.0, np.nan])
def test_floats_of_unknown_range_are_refused(tmp_path: Path, value: float) -> None:
    path = saved(Image.fromarray(np.array([[0, value]], dtype=np.float32)), tmp_path / "x.tiff")
    with pytest.raises(UserError, match="where 0 to 1 was expected; save it as 8 or 16 bits"):
        read_image(path)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    pixels = read_image(saved(image, tmp_path / "x.png"))
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [255, 255, 255]]])


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    pixels = read_image(saved(image, tmp_path / "x.png", transparency=0))
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [10, 20, 30]]])


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16), dtype=np.uint8)
    pixels[:, 8:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending in ("png", "jpg", "tiff", "webp"):
        shown = read_image(saved(Image.fromarray(pixels), tmp_path / f"x.{ending}", exif=exif))
        assert shown.shape[:2] == (16, 8)
        assert shown[:6].mean() < 20 < 200 < shown[10:].mean()


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(saved(image, tmp_path / "x.png")), [[255, 0]])


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (2, 2), value) for value in (10, 200)]
    path = saved(frames[0], tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (read_image(path) == 10).all()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    pixels = read_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "x.jpg"))
    np.testing.assert_allclose(pixels[4, 4], [254, 0, 0], atol=3)


def test_lab_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="colour mode LAB; save it as RGB"):
        read_image(saved(Image.new("LAB", (2, 2)), tmp_path / "x.tiff"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [300, 100], ids=["where Pillow warns", "where Pillow refuses"])
def test_too_many_pixels_are_refused(write: Writer, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = write("big.png", (20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=rf"big.png: has more than the {limit} pixels .* cut it into tiles"):
        read_image(path)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_cut_file_is_refused(write: Writer, ending: str) -> None:
    path = write(f"cut.{ending}", (64, 64))
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(UserError, match=rf"cut.{ending}: is damaged or cut short .* --skip-bad"):
        read_image(path)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("empty.png", "is empty .0 bytes."),
        ("text.png", "is not an image"),
        ("folder.png", "is a folder"),
        ("none.png", "there is no such file"),
    ):
        with pytest.raises(UserError, match=rf"{name}: {reason}.*; replace the file, or .* --skip-bad"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8)), [[False, True, True]]),
        (Image.fromarray(np.array([[False, True, True]])), [[False, True, True]]),
        (Image.fromarray(np.array([[0, 1, 65535]], dtype=np.uint16)), [[False, True, True]]),
        (
            Image.fromarray(np.array([[[0, 0, 0], [9, 0, 0], [0, 0, 1]]], dtype=np.uint8)),
            [[False, True, True]],
        ),
        (
            Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [1, 1, 1, 255]]], dtype=np.uint8)),
            [[False, True, True]],
        ),
    ],
    ids=["grey", "1-bit", "16-bit", "colour", "transparent"],
)
def test_a_mask_marks_what_is_not_black(
    tmp_path: Path, image: Image.Image, expected: list[list[bool]]
) -> None:
    np.testing.assert_array_equal(read_mask(saved(image, tmp_path / "m.png")), expected)


def test_traces_of_compression_in_a_jpeg_mask_are_not_marked(tmp_path: Path) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[5:19, 7:23] = True
    path = saved(Image.fromarray(mask.astype(np.uint8) * 255), tmp_path / "m.jpg", quality=60)
    assert (read_mask(path) != mask).mean() < 0.01


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"m.png: there is no such file.*--skip-bad"):
        read_mask(tmp_path / "m.png")


def test_resizing_averages_so_that_no_pixel_is_lost() -> None:
    checkers = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    for pixels in (checkers, checkers.astype(np.float32) / 255):
        torch.testing.assert_close(
            to_tensor(pixels, (8, 16), 1)[:, 1:-1, 1:-1], torch.full((1, 6, 14), 0.5), atol=5e-3, rtol=0
        )


def test_grey_is_repeated_and_colour_becomes_luminance() -> None:
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert torch.equal(to_tensor(grey, (2, 3), 3), torch.from_numpy(grey / 255).float().expand(3, 2, 3))
    colour = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)
    torch.testing.assert_close(
        to_tensor(colour, (1, 3), 1), torch.tensor([[[0.299, 0.587, 0.114]]]), atol=2e-3, rtol=0
    )


def test_a_mask_is_resized_by_the_nearest_pixel() -> None:
    mask = np.eye(4, dtype=bool)
    assert torch.equal(
        mask_to_tensor(mask, (8, 8)), torch.eye(4).bool().repeat_interleave(2, 0).repeat_interleave(2, 1)
    )
    assert torch.equal(mask_to_tensor(mask, (4, 4)), torch.eye(4).bool())
