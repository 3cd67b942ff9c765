"""Photographs of materials that come with scikit-image, and crops from them."""

import functools
import importlib.resources

import numpy as np
from PIL import Image

from pinakes.data.images import read_image
from pinakes.errors import UserError

MATERIALS = {
    "brick": "brick.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "tissue": "ihc.png",
    "stars": "hubble_deep_field.jpg",
}
"""Materials, each one photograph of at least 512 x 512 pixels; brick, grass and gravel are grey."""

REGIONS = {"train": (0.0, 0.6), "test": (0.6, 1.0)}
"""The part of a photograph's width from which each split is cut; no pixel is in both."""

_SMALLEST, _LARGEST = 96, 192


@functools.cache
def photograph(material: str) -> Image.Image:
    """A photograph, in RGB.

    Raises:
        UserError: If the installed scikit-image does not come with it.
    """
    file = importlib.resources.files("skimage").joinpath("data", MATERIALS[material])
    with importlib.resources.as_file(file) as path:
        if not path.exists():
            raise UserError(
                f"the installed scikit-image lacks {path.name}; install scikit-image 0.25 or later"
            )
        return Image.fromarray(read_image(path)).convert("RGB")


def crop(material: str, split: str, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random piece of a photograph, in slightly different light each time.

    The piece is 96 to 192 pixels of the photograph long, whatever the size, so that it always shows several bricks
    or stones.

    Args:
        material: One of `MATERIALS`.
        split: Whose region to cut from, "train" or "test".
        size: Height and width in pixels of the result.
        rng: Source of every random choice.

    Returns:
        float32 (3, height, width) in [0, 1].
    """
    photo = photograph(material)
    start, stop = (round(share * photo.width) for share in REGIONS[split])
    zoom = min(max(_SMALLEST, *size), _LARGEST) / max(size)
    height, width = (max(1, round(side * zoom)) for side in size)
    top = int(rng.integers(photo.height - height + 1))
    left = int(rng.integers(start, stop - width + 1))
    piece = photo.crop((left, top, left + width, top + height)).resize(size[::-1], Image.Resampling.BILINEAR)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return _relit(np.asarray(piece, dtype=np.float32).transpose(2, 0, 1) / 255, rng)


def _relit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[1:]
    down, across = rng.uniform(-0.06, 0.06, 2)
    slope = down * np.linspace(-1, 1, height)[:, None] + across * np.linspace(-1, 1, width)
    return (image * (rng.uniform(0.92, 1.08) + slope)).clip(0, 1).astype(np.float32)
