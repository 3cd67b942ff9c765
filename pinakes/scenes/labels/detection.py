"""Where each thing is: its box, class and visible mask."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.world import Scene

SMALLEST_SHARE = 0.0015
"""Share of the picture below which what is visible of a thing does not count."""


def boxes_of(masks: Bool[Tensor, "thing height width"]) -> Float[Tensor, "thing 4"]:
    """Boxes around masks, xyxy in pixels, from the left edge of the first to the right edge of the last pixel."""
    ends = []
    for axis in (1, 2):
        some = masks.any(axis)
        first = some.float().argmax(1)
        last = some.shape[1] - some.flip(1).float().argmax(1)
        ends.append((first, last))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1).float()


def visible_things(
    instance: Int[Tensor, "height width"], scene: Scene
) -> tuple[list[int], Bool[Tensor, "thing height width"]]:
    """Indices and masks of the things that are seen well enough to count."""
    ids = torch.arange(1, len(scene.things) + 1)[:, None, None]
    masks = instance == ids
    large = masks.flatten(1).sum(1) >= SMALLEST_SHARE * instance.numel()
    return large.nonzero()[:, 0].tolist(), masks[large]


def samples(block: Block, *, things: int = 5, textures: Source = "procedural") -> list[Sample]:
    """Several things, with boxes (thing, 4), labels (thing) and visible masks (thing, height, width).

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    out = block.render(scenes, "image", "instance")
    found = []
    for scene, image, instance in zip(scenes, out["image"], out["instance"], strict=True):
        seen, masks = visible_things(instance, scene)
        labels = torch.tensor([scene.things[i].category for i in seen], dtype=torch.int64)
        found.append({"image": image, "boxes": boxes_of(masks), "labels": labels, "masks": masks})
    return found


LABEL = Label("boxes, classes and masks of things", samples, lambda **options: CLASSES)
