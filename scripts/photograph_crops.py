"""Endless pairs of crops from the photographs inside scikit-image and scikit-learn.

All photographs and their halved copies (a mip map) lie side by side in one tensor, the atlas, so that a
whole batch of crops, each with its own place, scale, aspect, turn and blur, is one call of ``grid_sample``;
colour is changed by one matrix product a batch. Nothing is done image by image. `layout` describes a view without
any network.
"""

from dataclasses import dataclass

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import Tensor

LEVELS = 6
MARGIN = 2
ORIENTATIONS = 8
CELLS = 4
LAYOUT_WIDTH = (CELLS - 1) ** 2 * 4 * ORIENTATIONS + 3 * CELLS**2
SCENES = ("astronaut", "chelsea", "coffee", "rocket", "camera", "motorcycle", "china", "flower")
TEXTURES = (
    "brick", "cell", "clock", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry",
    "moon", "page", "retina", "text",
)  # fmt: skip


def photographs() -> dict[str, Tensor]:
    """The photographs by name, each float [3, height, width] in [0, 1], shorter side at most 720 pixels."""
    shipped = [name for name in SCENES + TEXTURES if hasattr(skimage.data, name)]
    arrays: dict[str, NDArray[np.uint8]] = {name: getattr(skimage.data, name)() for name in shipped}
    arrays["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    arrays["china"], arrays["flower"] = load_sample_images().images
    pictures = {}
    for name, array in arrays.items():
        picture = torch.from_numpy(np.array(array)).float() / 255
        picture = picture.expand(3, -1, -1) if picture.ndim == 2 else picture.permute(2, 0, 1)
        shrink = 720 / min(picture.shape[1:])
        if shrink < 1:
            picture = _resized(picture, round(picture.shape[1] * shrink), round(picture.shape[2] * shrink))
        pictures[name] = picture.contiguous()
    return pictures


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(picture[None], (height, width), mode="bilinear", antialias=True)[0]


@dataclass
class Views:
    """Crops before and after their colours were changed, and where they were taken.

    Attributes:
        images: Float [batch, 3, size, size] in [0, 1], colours changed.
        plain: The same before that.
        frames: Float [batch, 2, 3]; maps a place in the crop (x, y in [-1, 1], 1) to pixels of its photograph.
    """

    images: Tensor
    plain: Tensor
    frames: Tensor


class Crops:
    """Draws pairs of views, each pair from one region of one photograph.

    Args:
        generator: The source of every random number.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        pictures = photographs()
        self.names = list(pictures)
        self.sizes = torch.tensor([[p.shape[2], p.shape[1]] for p in pictures.values()], dtype=torch.float32)
        weight = torch.tensor([3.0 if name in SCENES else 1.0 for name in self.names])
        self.weight = weight * self.sizes.prod(1).sqrt()
        self.atlas, self.corners, self.extents = self._packed(list(pictures.values()))

    @staticmethod
    def _packed(pictures: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        width = max(picture.shape[2] for picture in pictures) + 2 * MARGIN
        tiles = []
        for picture in pictures:
            for level in range(LEVELS):
                height, breadth = (max(2, round(side / 2**level)) for side in picture.shape[1:])
                tiles.append(F.pad(_resized(picture, height, breadth), (MARGIN,) * 4, mode="replicate"))
        order = sorted(range(len(tiles)), key=lambda index: -tiles[index].shape[1])
        corners = torch.zeros(len(tiles), 2)
        shelf_top, shelf_height, left = 0, 0, 0
        for index in order:
            _, tall, broad = tiles[index].shape
            if left + broad > width or shelf_height == 0:
                shelf_top, shelf_height, left = shelf_top + shelf_height, tall, 0
            corners[index] = torch.tensor([left + MARGIN, shelf_top + MARGIN])
            left += broad
        atlas = torch.zeros(1, 3, shelf_top + shelf_height, width)
        extents = torch.zeros(len(tiles), 2)
        for index, tile in enumerate(tiles):
            left, top = (int(corner) - MARGIN for corner in corners[index])
            atlas[0, :, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
            extents[index] = torch.tensor([tile.shape[2] - 2 * MARGIN, tile.shape[1] - 2 * MARGIN])
        shape = (len(pictures), LEVELS, 2)
        return atlas, corners.view(shape), extents.view(shape)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def _chance(self, probability: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) < probability

    def pairs(self, batch: int, size: int) -> tuple[Views, Views]:
        """Two views of each of ``batch`` regions, ``size`` pixels square."""
        photograph = torch.multinomial(self.weight, 4 * batch, replacement=True, generator=self.generator)
        extent = self.sizes[photograph]
        largest = extent.min(1).values * 0.95
        smallest = 40.0
        side = smallest * (largest / smallest) ** self._uniform(0, 1, 4 * batch)
        centre = side[:, None] / 2 + (extent - side[:, None]) * self._uniform(0, 1, 4 * batch, 2)
        chosen = self._eventful(photograph, centre, side).view(batch, 4)
        chosen = torch.multinomial(chosen, 1, generator=self.generator)[:, 0] + 4 * torch.arange(batch)
        photograph, centre, side = photograph[chosen], centre[chosen], side[chosen]
        first, second = (self._view(photograph, centre, side, size) for _ in range(2))
        return first, second

    def _eventful(self, photograph: Tensor, centre: Tensor, side: Tensor) -> Tensor:
        """The standard deviation of a thumbnail of each region, so that empty sky is drawn less often."""
        zero = torch.zeros_like(side)
        frames = torch.stack(
            [torch.stack([side / 2, zero, centre[:, 0]], 1), torch.stack([zero, side / 2, centre[:, 1]], 1)],
            1,
        )
        level = torch.log2(side / 8).round().long().clamp(0, LEVELS - 1)
        return self._sample(photograph, level, frames, 8).flatten(1).std(1).clamp(0.01, 0.15)

    def _view(self, photograph: Tensor, centre: Tensor, side: Tensor, size: int) -> Views:
        batch = len(side)
        area = self._uniform(0.15, 1, batch)
        aspect = torch.exp(self._uniform(-0.3, 0.3, batch))
        half = (
            torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1) / 2 * side[:, None]
        )
        place = centre + (side[:, None] / 2 - half) * self._uniform(-1, 1, batch, 2)
        angle = self._uniform(-0.35, 0.35, batch) * self._chance(0.5, batch)
        mirror = 1 - 2 * self._chance(0.5, batch).float()
        cosine, sine = angle.cos(), angle.sin()
        frames = torch.stack(
            [
                torch.stack([half[:, 0] * cosine * mirror, -half[:, 1] * sine, place[:, 0]], 1),
                torch.stack([half[:, 0] * sine * mirror, half[:, 1] * cosine, place[:, 1]], 1),
            ],
            1,
        )
        blur = self._uniform(0, 2, batch) * self._chance(0.5, batch)
        level = (torch.log2(2 * half.amin(1) / size).clamp(min=0) + blur).round().long().clamp(max=LEVELS - 1)
        plain = self._sample(photograph, level, frames, size)
        return Views(self._colour(plain), plain, frames)

    def _sample(self, photograph: Tensor, level: Tensor, frames: Tensor, size: int) -> Tensor:
        axis = (torch.arange(size) + 0.5) / size * 2 - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        grid = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
        pixels = grid @ frames.transpose(1, 2)
        extent = self.extents[photograph, level][:, None]
        pixels = pixels * extent / self.sizes[photograph][:, None]
        pixels = pixels.clamp(min=torch.tensor(0.0), max=extent) + self.corners[photograph, level][:, None]
        whole = torch.tensor([self.atlas.shape[3], self.atlas.shape[2]])
        places = (pixels / whole * 2 - 1).view(1, len(level) * size, size, 2)
        crops = F.grid_sample(self.atlas, places, align_corners=False)
        return crops.view(3, len(level), size, size).transpose(0, 1)

    def _colour(self, images: Tensor) -> Tensor:
        """Saturation, hue, tint, contrast, inversion, brightness and noise, each drawn per image."""
        batch = len(images)
        luminance = torch.tensor([0.299, 0.587, 0.114])
        jittered = self._chance(0.8, batch)

        def drawn(low: float, high: float) -> Tensor:
            return torch.where(jittered, self._uniform(low, high, batch), torch.ones(batch))

        saturation = drawn(0.4, 1.6) * (~self._chance(0.2, batch))
        grey = luminance.expand(3, 3)
        matrix = saturation[:, None, None] * (torch.eye(3) - grey) + grey
        turn = self._uniform(-0.6, 0.6, batch) * jittered
        yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
        rotation = torch.eye(3).repeat(batch, 1, 1)
        rotation[:, 1, 1] = rotation[:, 2, 2] = turn.cos()
        rotation[:, 2, 1] = turn.sin()
        rotation[:, 1, 2] = -turn.sin()
        matrix = torch.linalg.inv(yiq) @ rotation @ yiq @ matrix
        tint = 1 + self._uniform(-0.25, 0.25, batch, 3) * self._chance(0.5, batch, 1)
        contrast = (self._uniform(-1.4, 0.4, batch) * jittered).exp() * torch.where(
            self._chance(0.1, batch), -1.0, 1.0
        )
        matrix = matrix * tint[:, :, None] * contrast[:, None, None]
        mean = images.mean((2, 3))
        target = mean * drawn(0.4, 1.5)[:, None]
        target_brightness = torch.where(contrast < 0, 1 - target.mean(1), target.mean(1))
        offset = target_brightness - (matrix @ mean[:, :, None]).mean((1, 2))
        mixed = torch.baddbmm(offset[:, None, None], matrix, images.flatten(2)).view_as(images)
        noise = self._uniform(0, 0.06, batch, 1, 1, 1) * self._chance(0.3, batch, 1, 1, 1)
        mixed = mixed + noise * torch.randn(mixed.shape, generator=self.generator)
        return mixed.clamp(0, 1)


def shared_places(first: Views, second: Views, points: Tensor) -> tuple[Tensor, Tensor]:
    """Where the places ``points`` of the first views lie in the second.

    Args:
        first: Views of some regions.
        second: Other views of the same regions.
        points: Float [batch, points, 2], x and y in [-1, 1] of the first view.

    Returns:
        Float [batch, points, 2] in the coordinates of the second view, and bool [batch, points]: inside it.
    """
    pixels = points @ first.frames[:, :, :2].transpose(1, 2) + first.frames[:, None, :, 2]
    back = torch.linalg.inv(second.frames[:, :, :2])
    found = (pixels - second.frames[:, None, :, 2]) @ back.transpose(1, 2)
    return found, found.abs().amax(-1) <= 1


def layout(plain: Tensor, images: Tensor) -> Tensor:
    """A descriptor of each image: where which edges are (plain), and which colours (images), about the mean.

    Args:
        plain: Float [batch, 3, height, width] in [0, 1], from which the gradients are taken.
        images: Float [batch, 3, height, width] in [0, 1], from which the colours are taken.

    Returns:
        Float [batch, 336]: 3 x 3 blocks of 2 x 2 cells with 8 orientations, and 4 x 4 colours.

    Source: Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005.
    """
    side = 8 * CELLS
    if plain.shape[-2:] != (side, side):
        plain = F.interpolate(plain, (side, side), mode="bilinear", antialias=True)
    across = F.pad(plain[..., 2:] - plain[..., :-2], (1, 1))
    down = F.pad(plain[..., 2:, :] - plain[..., :-2, :], (0, 0, 1, 1))
    strength, channel = (across.square() + down.square()).max(1, keepdim=True)
    angle = torch.atan2(down.gather(1, channel), across.gather(1, channel)) / torch.pi * ORIENTATIONS
    distance = (angle - torch.arange(ORIENTATIONS).view(1, -1, 1, 1)).remainder(ORIENTATIONS)
    votes = (1 - torch.minimum(distance, ORIENTATIONS - distance)).clamp(min=0) * strength.sqrt()
    blocks = F.unfold(F.avg_pool2d(votes, 8), 2)
    for _ in range(2):
        blocks = F.normalize(blocks, dim=1, eps=1e-2).clamp(max=0.2)
    gradients, colours = blocks.flatten(1), F.adaptive_avg_pool2d(images, CELLS).flatten(1)
    gradients, colours = (part - part.mean(0) for part in (gradients, colours))
    return torch.cat(
        [gradients / gradients.norm(dim=1).mean(), 0.6 * colours / colours.norm(dim=1).mean()], 1
    )
