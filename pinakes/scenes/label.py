"""What a label is: a function that makes samples of one block of a data set, and the names of its classes."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pinakes.data.base import Column, Sample
from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.camera import Cameras
from pinakes.scenes.renderer import render
from pinakes.scenes.world import Camera, Scene

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Block:
    """Neighbouring samples of one split, made together.

    Args:
        what: Name of the label.
        split: "train", "val" or "test".
        indices: Which samples.
        size: Height and width of the pictures.
        seed: Seed of the data set.
    """

    what: str
    split: str
    indices: range
    size: tuple[int, int]
    seed: int

    def generators(self) -> list[np.random.Generator]:
        """A source of randomness for each sample, which depends on nothing but the spec, split and index."""
        key = [self.seed, zlib.crc32(self.what.encode()), _SPLITS.index(self.split)]
        return [np.random.default_rng([*key, index]) for index in self.indices]

    def cameras(self, cameras: Sequence[Camera]) -> Cameras:
        """Cameras with pictures of the size of this block."""
        return Cameras.of(cameras, *self.size)

    def render(self, scenes: Sequence[Scene], *outputs: str, antialias: bool = True) -> dict[str, Tensor]:
        """Renders each scene with its own camera."""
        cameras = self.cameras([scene.camera for scene in scenes])
        return render(batch_scenes(scenes), cameras, outputs, antialias=antialias)

    def apart(self, outputs: dict[str, Tensor]) -> list[Sample]:
        """One sample for each scene, from tensors with a leading dimension of scenes."""
        return [{name: value[i] for name, value in outputs.items()} for i in range(len(self.indices))]


def about(count: int) -> tuple[int, int]:
    """Fewest and most things when about `count` are wanted: one less to one more."""
    if count < 1:
        raise UserError(f"the option 'things' must be at least 1, got {count}")
    return max(1, count - 1), count + 1


def no_classes(**options: object) -> tuple[str, ...]:
    """The classes of labels that have none."""
    return ()


def no_columns(**options: object) -> tuple[Column, ...]:
    """The columns of labels without a table."""
    return ()


@dataclass(frozen=True)
class Label:
    """One kind of ground truth.

    Args:
        about: What a sample holds, in a line.
        samples: Makes the samples of a `Block`; its keyword-only arguments are the options of the spec, annotated
            int, float, bool, str or `Literal[...]`.
        classes: Names of the classes, given the options.
        count: Number of training samples unless the spec says another.
        columns: Columns of the table, given the options.
    """

    about: str
    samples: Callable[..., list[Sample]]
    classes: Callable[..., tuple[str, ...]] = no_classes
    count: int = 2000
    columns: Callable[..., tuple[Column, ...]] = no_columns
