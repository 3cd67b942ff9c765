"""Images and masks from files: anything that Pillow reads, as arrays and as tensors of one size.

Resizing is left to Pillow, which needs no threads: loading then does not slow down the training beside it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from pinakes.errors import UserError

REMEDY = "replace the file, or leave such files out with --skip-bad (skip_bad=True)"


class BadImage(Exception):
    """A file that cannot be used as an image; the message says why, and does not name the file."""


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """A Pillow image, of a file or of its bytes, whose header was read and whose size is safe; not yet decoded.

    Raises:
        BadImage: If the file cannot be opened, or decoded within the `with` block.
    """
    try:
        # Given a path, Pillow 11 to 13 maps uncompressed TIFFs into memory and scrambles those with an orientation.
        with (
            BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            Image.open(file) as image,
        ):
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            yield image
    except BadImage:
        raise
    except FileNotFoundError as error:
        raise BadImage("there is no such file") from error
    except IsADirectoryError as error:
        raise BadImage("is a folder, not an image") from error
    except PermissionError as error:
        raise BadImage("may not be read (permission denied)") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(
            f"has more than the {Image.MAX_IMAGE_PIXELS:,} pixels that are safe to decode; cut it into tiles"
        ) from error
    except UnidentifiedImageError as error:
        empty = not (source if isinstance(source, bytes) else source.stat().st_size)
        raise BadImage("is empty (0 bytes)" if empty else "is not an image that can be read") from error
    except Exception as error:  # the decoders raise nearly anything on damaged bytes
        raise BadImage(f"is damaged or cut short ({str(error) or type(error).__name__})") from error


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image as it is meant to be seen.

    An EXIF orientation is applied. Transparent images are laid on white, as pages and shops show them. Palette,
    CMYK and other colour images become RGB. 16-bit grey is divided by 65535, so that dim images stay dim and
    bright ones are not clipped; floating-point grey must lie in [0, 1]. Of an animation the first frame is read.

    Args:
        path: The file.

    Returns:
        (height, width) if grey, else (height, width, 3). uint8, or float32 in [0, 1] for deeper images.

    Raises:
        UserError: If the file cannot be read; the message names it and says what to do.
    """
    try:
        return decode(Path(path))
    except BadImage as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from error


def read_mask(path: str | Path) -> np.ndarray:
    """Reads a mask: True where it is marked.

    Marked is what is not black; in a JPEG, whose compression leaves traces around edges, what is brighter than
    half. Transparent pixels are not marked.

    Returns:
        bool array (height, width).

    Raises:
        UserError: If the file cannot be read; the message names it and says what to do.
    """
    try:
        return decode_mask(Path(path))
    except BadImage as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from error


def decode(source: Path | bytes) -> np.ndarray:
    """`read_image`, of a file or of its bytes, but raises BadImage."""
    with opened(source) as image:
        return to_array(image)


def decode_mask(path: Path) -> np.ndarray:
    """`read_mask`, but raises BadImage."""
    with opened(path) as image:
        lossy = image.format in {"JPEG", "MPO"}
        pixels = to_array(image, paper=0)
    if pixels.ndim == 3:
        pixels = pixels.max(axis=2)
    return pixels > 127 if lossy else pixels > 0


def to_array(image: Image.Image, *, paper: int = 255) -> np.ndarray:
    """Decodes an opened Pillow image; see `read_image`.

    Args:
        image: The image.
        paper: Grey value, 0 to 255, on which transparent images are laid.

    Raises:
        BadImage: If its values have no known range or its colours are not converted.
    """
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32) / 65535
    if image.mode == "I":
        return _scaled(np.asarray(image), 65535, "32-bit integer")
    if image.mode == "F":
        return _scaled(np.asarray(image), 1, "floating-point")
    if image.has_transparency_data:
        grey = image.mode == "LA"
        front = image.convert("RGBA")
        image = Image.new("RGBA", front.size, (paper, paper, paper, 255))
        image.alpha_composite(front)
        return np.array(image.convert("L" if grey else "RGB"))
    if image.mode in {"1", "L"}:
        return np.array(image.convert("L"))
    if image.mode == "LAB":
        raise BadImage("has the colour mode LAB; save it as RGB")
    return np.array(image.convert("RGB"))


def _scaled(pixels: np.ndarray, top: float, kind: str) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if not (low >= 0 and high <= top):
        raise BadImage(
            f"holds {kind} values from {low:g} to {high:g}, where 0 to {top:g} was expected; "
            "save it as 8 or 16 bits"
        )
    return (pixels / top).astype(np.float32)


def to_tensor(pixels: np.ndarray, size: tuple[int, int], channels: int) -> Tensor:
    """An image of `read_image` as a tensor of the wanted size.

    Args:
        pixels: (height, width) or (height, width, 3), uint8 or float32 in [0, 1].
        size: Height and width to stretch to, with antialiasing.
        channels: 3 (grey is repeated) or 1 (colour becomes luminance, ITU-R 601).

    Returns:
        float32 (channels, height, width) in [0, 1].
    """
    if channels == 1 and pixels.ndim == 3:
        pixels = np.array(Image.fromarray(pixels).convert("L"))
    if pixels.shape[:2] != size:
        pixels = np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    scaled = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
    layers = scaled[None] if scaled.ndim == 2 else scaled.transpose(2, 0, 1)
    return torch.from_numpy(np.broadcast_to(layers, (channels, *size)).copy())


def mask_to_tensor(mask: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A bool array (height, width) as a bool tensor of the wanted size, by the nearest pixel."""
    if mask.shape == size:
        return torch.from_numpy(mask)
    resized = Image.fromarray(mask.view(np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized) > 0)
