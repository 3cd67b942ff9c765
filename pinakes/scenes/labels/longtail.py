"""Classes of which some are common and some rare."""

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, Source, draw_thing
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.label import Block, Label

_GOLDEN = 0.6180339887498949


def frequencies(imbalance: float) -> list[float]:
    """Share of each class: falling geometrically, so that the first is `imbalance` times as common as the last."""
    weights = [imbalance ** (-i / (len(CLASSES) - 1)) for i in range(len(CLASSES))]
    return [weight / sum(weights) for weight in weights]


def _class_of(index: int, shares: list[float]) -> int:
    place = (0.5 + index * _GOLDEN) % 1.0
    for category, share in enumerate(shares):
        place -= share
        if place < 0:
            return category
    return len(shares) - 1


def samples(block: Block, *, imbalance: float = 50.0, textures: Source = "procedural") -> list[Sample]:
    """One thing a picture, its class as `label`. In training the classes are long-tailed, in the order of
    `scenes:classification`; validation and test are balanced. Shares are kept in every stretch of the samples.

    Args:
        block: Which samples.
        imbalance: How many times as common the first class is as the last.
        textures: Where textures come from.
    """
    if imbalance < 1:
        raise UserError(f"the option 'imbalance' must be at least 1, got {imbalance:g}")
    shares = frequencies(imbalance if block.split == "train" else 1.0)
    distribution = Distribution().textured_by(textures)
    scenes = []
    for index, rng in zip(block.indices, block.generators(), strict=True):
        main = draw_thing(rng, distribution, name=CLASSES[_class_of(index, shares)], scale=1.0)
        scenes.append(draw_portrait(rng, distribution, main=main))
    pictures = block.apart(block.render(scenes, "image"))
    return [
        sample | {"label": scene.things[0].category} for sample, scene in zip(pictures, scenes, strict=True)
    ]


LABEL = Label("long-tailed classes", samples, lambda **options: CLASSES)
