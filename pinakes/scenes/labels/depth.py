"""Distance of every pixel."""

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about


def samples(block: Block, *, things: int = 5, textures: Source = "procedural") -> list[Sample]:
    """Several things, and the depth of every pixel along the optical axis, in scene units.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    return block.apart(block.render(scenes, "image", "depth"))


LABEL = Label("depth in scene units", samples)
