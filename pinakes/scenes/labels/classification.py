"""The class of the main thing in the picture."""

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.label import Block, Label


def samples(block: Block, *, others: int = 1, textures: Source = "procedural") -> list[Sample]:
    """A large thing of a random class in the middle, and smaller ones around it.

    Args:
        block: Which samples.
        others: Most other things in a picture.
        textures: Where textures come from.
    """
    distribution = Distribution().textured_by(textures)
    scenes = [draw_portrait(rng, distribution, others=others) for rng in block.generators()]
    pictures = block.apart(block.render(scenes, "image"))
    return [
        sample | {"label": scene.things[0].category} for sample, scene in zip(pictures, scenes, strict=True)
    ]


LABEL = Label("the class of the main thing", samples, lambda **options: CLASSES)
