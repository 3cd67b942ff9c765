"""One picture in several forms: colour, depth and classes of all pixels."""

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.labels.segmentation import SEMANTIC_CLASSES


def samples(block: Block, *, things: int = 5, textures: Source = "procedural") -> list[Sample]:
    """Several things; `depth` along the optical axis in scene units and `semantic`, the class of every pixel.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    return block.apart(block.render(scenes, "image", "depth", "semantic"))


LABEL = Label("depth and semantic classes", samples, lambda **options: SEMANTIC_CLASSES)
