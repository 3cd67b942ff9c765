"""The photographs inside scikit-image as a source of textures: real pictures with no download."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import skimage
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.scenes.world import GAMMA

PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
"""Names of the photographs, functions of `skimage.data`, in the order of their numbers."""

SIDE = 256
_LEVELS = 6


def load_photograph(name: str) -> Float[Tensor, "3 height width"]:
    """One photograph in colour, values 0 to 1."""
    pixels = np.asarray(getattr(skimage.data, name)())
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return torch.from_numpy(pixels[..., :3].copy()).permute(2, 0, 1).float() / 255


@dataclass(frozen=True)
class Pyramid:
    """Square crops of all photographs, in linear light, each at half the resolution of the one before.

    Args:
        pixels: All levels one after the other, each (photo, row, column) flattened.
        offsets: Where each level starts.
    """

    pixels: Float[Tensor, "3 pixel"]
    offsets: Int[Tensor, "level"]

    def look_up(
        self,
        photo: Int[Tensor, "n"],
        coordinates: Float[Tensor, "2 n"],
        footprint: Float[Tensor, "n"],
    ) -> Float[Tensor, "3 n"]:
        """Linear colours at texture coordinates, mirrored beyond one period.

        Args:
            photo: Which photograph.
            coordinates: Place in it; 0 to 1 is the whole crop.
            footprint: Width of a pixel in periods; chooses the level of the pyramid.
        """
        level = (footprint * SIDE).clamp_min(1).log2().round().long().clamp_max(_LEVELS - 1)
        side = torch.div(SIDE, 2**level, rounding_mode="floor")
        mirrored = 1 - (coordinates.remainder(2) - 1).abs()
        place = (mirrored * side - 0.5).clamp_min(0)
        low = place.floor().long()
        low = torch.minimum(low, side - 1)
        high = torch.minimum(low + 1, side - 1)
        weight = place - low
        start = self.offsets[level] + photo * side.square()
        rows = [start + y * side for y in (low[1], high[1])]
        top, bottom = (
            self.pixels[:, row + low[0]].lerp(self.pixels[:, row + high[0]], weight[0]) for row in rows
        )
        return top.lerp(bottom, weight[1])


@lru_cache(maxsize=4)
def pyramid(device: str) -> Pyramid:
    """The photographs at all levels, on a device; made once."""
    images = torch.stack([_square(load_photograph(name)) for name in PHOTOGRAPHS]).pow(GAMMA)
    levels, offsets, total = [], [], 0
    for level in range(_LEVELS):
        side = SIDE >> level
        smaller = torch.nn.functional.interpolate(images, size=(side, side), mode="area")
        levels.append(smaller.transpose(0, 1).flatten(1))
        offsets.append(total)
        total += levels[-1].shape[1]
    return Pyramid(torch.cat(levels, dim=1).to(device), torch.tensor(offsets, device=device))


def _square(image: Float[Tensor, "3 height width"]) -> Float[Tensor, "3 side side"]:
    side = min(image.shape[1:])
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    crop = image[None, :, top : top + side, left : left + side]
    return torch.nn.functional.interpolate(crop, size=(SIDE, SIDE), mode="area")[0]
