"""What every pixel belongs to."""

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.label import Block, Label, about

SEMANTIC_CLASSES = ("background", "ground", *CLASSES)


def samples(block: Block, *, things: int = 5, textures: Source = "procedural") -> list[Sample]:
    """Several things; `semantic` numbers the class of every pixel, `instance` the thing, 0 where there is none.

    Both together are the panoptic truth: background and ground are stuff, the rest are things.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    return block.apart(block.render(scenes, "image", "semantic", "instance"))


LABEL = Label("semantic and instance segmentation", samples, lambda **options: SEMANTIC_CLASSES)
