"""Classes with a table of attributes."""

import torch

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.forms import CLASSES, COLOURS
from pinakes.scenes.label import Block, Label
from pinakes.scenes.textures import TEXTURE_NAMES
from pinakes.scenes.world import Thing

SHAPE_ATTRIBUTES = {
    "round": ("sphere", "cylinder", "cone", "torus", "capsule", "mug", "figure", "lamp"),
    "edged": ("box", "cylinder", "cone", "mug", "table", "lamp"),
    "pointed": ("cone", "lamp"),
    "flat on top": ("box", "cylinder", "mug", "table"),
    "with a hole": ("torus", "mug"),
    "of several pieces": ("mug", "table", "figure", "lamp"),
    "on legs": ("table",),
    "with a ball": ("sphere", "figure"),
    "with a thin stem": ("lamp", "table"),
    "with a handle": ("mug",),
}
"""Attributes that a class has or has not, and the classes that have them."""

ATTRIBUTES = (*SHAPE_ATTRIBUTES, *COLOURS, *TEXTURE_NAMES)
"""Names of all attributes, in the order of the columns."""

TABLE = torch.tensor([[name in owners for owners in SHAPE_ATTRIBUTES.values()] for name in CLASSES])
"""Which class has which shape attribute, (class, shape attribute)."""


def _of(thing: Thing) -> torch.Tensor:
    rest = [thing.colour == name for name in COLOURS] + [thing.texture == name for name in TEXTURE_NAMES]
    return torch.cat([TABLE[thing.category], torch.tensor(rest)]).float()


def samples(block: Block, *, unseen: int = 0, textures: Source = "procedural") -> list[Sample]:
    """One thing a picture: `label` is its class, `attributes` (attribute) holds 1 for each of `ATTRIBUTES` that it
    has: those of its class, its colour and its texture.

    Args:
        block: Which samples.
        unseen: How many of the last classes are shown in the test only, and nothing else there.
        textures: Where textures come from.
    """
    if not 0 <= unseen < len(CLASSES):
        raise UserError(f"the option 'unseen' must be from 0 to {len(CLASSES) - 1}, got {unseen}")
    cut = len(CLASSES) - unseen
    shown = CLASSES[cut:] if unseen and block.split == "test" else CLASSES[:cut]
    distribution = Distribution(classes=shown).textured_by(textures)
    scenes = [draw_portrait(rng, distribution) for rng in block.generators()]
    pictures = block.apart(block.render(scenes, "image"))
    return [
        sample | {"label": scene.things[0].category, "attributes": _of(scene.things[0])}
        for sample, scene in zip(pictures, scenes, strict=True)
    ]


LABEL = Label("classes with attributes", samples, lambda **options: CLASSES)
