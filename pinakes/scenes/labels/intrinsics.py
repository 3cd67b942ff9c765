"""What a picture is made of: colour of the surfaces, and light on them."""

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about


def samples(
    block: Block, *, things: int = 5, lamps: int = 1, textures: Source = "procedural"
) -> list[Sample]:
    """Matt things: `albedo` and `shading` (3, height, width) in linear light, whose product, cut off at 1 and to the
    power 1 / 2.2, is the image to the precision of its 8 bits.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        lamps: Lamps, 1 to 3.
        textures: Where textures come from.
    """
    if not 1 <= lamps <= 3:
        raise UserError(f"the option 'lamps' must be from 1 to 3, got {lamps}")
    distribution = Distribution(things=about(things), glossy=0.0, lamps=(lamps, lamps)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    return block.apart(block.render(scenes, "image", "albedo", "shading", antialias=False))


LABEL = Label("albedo and shading", samples)
