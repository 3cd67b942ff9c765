"""Data sets of images with boxes, and with a mask of every thing where outlines are known."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from skimage.draw import polygon
from torch import Tensor
from torch.utils.data import Dataset

from pinakes.data.base import Sample
from pinakes.data.images import mask_to_tensor, read_image, to_tensor
from pinakes.data.inspection import Facts


@dataclass(frozen=True, slots=True)
class Thing:
    """One annotated thing, in pixels of the image file.

    Args:
        box: Left, top, right, bottom.
        label: Its class.
        polygons: Outlines, each x, y, x, y, ...
        runs: Instead of outlines, lengths of runs of unmarked and marked pixels in turn, down the columns (the
            run-length encoding of COCO).
    """

    box: tuple[float, float, float, float]
    label: int
    polygons: tuple[tuple[float, ...], ...] = ()
    runs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """An image file, relative to the root of the set, and the things on it."""

    name: str
    things: tuple[Thing, ...]


class BoxedImages(Dataset[Sample]):
    """Images with boxes; each is decoded when it is asked for.

    Samples hold `image`, `boxes` (float (n, 4): left, top, right, bottom in pixels after resizing), `labels` (int64
    (n,)), `path` and, if wanted, `masks` (bool (n, height, width)).

    Args:
        root: The folder to which all names are relative.
        images: The images and what is on them.
        size: Height and width in pixels to which images are stretched.
        channels: 3 or 1.
        facts: What the inspection found, for the fingerprint and the sizes.
        masks: Whether samples have masks.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[BoxedImage],
        *,
        size: tuple[int, int],
        channels: int,
        facts: Mapping[str, Facts],
        masks: bool = False,
    ) -> None:
        self.root = root
        self.images = tuple(images)
        self.size = size
        self.channels = channels
        self.masks = masks
        self.native_sizes = dict(Counter(facts[image.name].size for image in images))
        digest = hashlib.sha256(repr((size, channels, masks)).encode())
        for image in images:
            fact = facts[image.name]
            digest.update(repr((image, fact.bytes, fact.modified)).encode())
        self._fingerprint = digest.hexdigest()[:16]

    @property
    def paths(self) -> tuple[str, ...]:
        """The images, relative to the root."""
        return tuple(image.name for image in self.images)

    @property
    def labels(self) -> tuple[int, ...]:
        """The labels of the things on all images."""
        return tuple(thing.label for image in self.images for thing in image.things)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Empty for every image: images with several things are of no one kind."""
        return ("",) * len(self.images)

    def fingerprint(self) -> str:
        """A hash of names, lengths, times and annotations, as they were when the files were inspected."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        pixels = read_image(self.root / image.name)
        height, width = pixels.shape[:2]
        scale = torch.tensor([self.size[1] / width, self.size[0] / height] * 2)
        boxes = torch.tensor([thing.box for thing in image.things], dtype=torch.float32).reshape(-1, 4)
        sample: Sample = {
            "image": to_tensor(pixels, self.size, self.channels),
            "boxes": boxes * scale,
            "labels": torch.tensor([thing.label for thing in image.things], dtype=torch.int64),
            "path": image.name,
        }
        if self.masks:
            drawn = [_mask(thing, (height, width), self.size) for thing in image.things]
            sample["masks"] = torch.stack(drawn) if drawn else torch.zeros((0, *self.size), dtype=torch.bool)
        return sample


def _mask(thing: Thing, native: tuple[int, int], size: tuple[int, int]) -> Tensor:
    if thing.runs:
        marked = np.arange(len(thing.runs)) % 2 == 1
        return mask_to_tensor(np.repeat(marked, thing.runs).reshape(native[::-1]).T, size)
    mask = np.zeros(size, dtype=bool)
    across, down = size[1] / native[1], size[0] / native[0]
    for outline in thing.polygons:
        rows, columns = np.array(outline[1::2]) * down, np.array(outline[::2]) * across
        mask[polygon(rows - 0.5, columns - 0.5, size)] = True
    return torch.from_numpy(mask)
