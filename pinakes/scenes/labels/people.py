"""People in different clothes and poses, with the parts that they are made of."""

import math
from typing import Literal

import numpy as np

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import furnish
from pinakes.scenes.distribution import Distribution, draw_material
from pinakes.scenes.forms import COLOURS
from pinakes.scenes.label import Block, Label
from pinakes.scenes.world import Material, Part, Scene, Thing, Triple

PARTS = ("head", "upper body", "lower body", "shoes")
PART_CLASSES = ("background", *PARTS)

_TEXTURES = ("plain", "plain", "striped", "checked", "dotted")
_OUTFITS = tuple((upper, lower) for upper in COLOURS for lower in COLOURS if upper != lower)
_SURROUNDINGS = Distribution(elevation=(0.0, 14.0), room=(0.82, 0.92), lamps=(1, 2))
_HEIGHT = 1.96

Truth = Literal["parts", "person"]


def _limb(hinge: Triple, length: float, radius: float, swing: float, material: Material) -> Part:
    """A capsule that hangs from a hinge, swung forwards by an angle."""
    x, y, z = hinge
    half = length / 2
    offset = (x + half * math.sin(swing), y, z - half * math.cos(swing))
    return Part("capsule", (radius, 0.0, half), offset, (0.0, -swing, 0.0), material)


def draw_person(
    rng: np.random.Generator, outfit: np.random.Generator, upper: str, lower: str
) -> tuple[Thing, ...]:
    """A person at the origin, of whom each of `PARTS` is a thing of its own.

    Args:
        rng: Source of pose, build and shades.
        outfit: Source of what does not change from picture to picture: textures, and the colour of shoes and hair.
        upper: Colour of the upper body's clothes.
        lower: That of the lower body's.
    """
    names = tuple(COLOURS)
    shirt = draw_material(outfit, COLOURS[upper], str(outfit.choice(_TEXTURES)), period=0.3)
    trousers = draw_material(outfit, COLOURS[lower], "plain")
    leather = draw_material(outfit, COLOURS[names[int(outfit.integers(len(names)))]], "plain")
    brown, pale = np.array([0.36, 0.22, 0.15]), np.array([0.93, 0.76, 0.64])
    r, g, b = (brown + outfit.random() * (pale - brown)).tolist()
    skin = draw_material(outfit, (r, g, b), "plain")
    hair = draw_material(outfit, COLOURS[str(outfit.choice(("brown", "yellow", "orange", "white")))], "plain")
    turn = (0.0, 0.0, float(rng.uniform(0, 2 * math.pi)))
    broad = float(rng.uniform(0.9, 1.15))
    stride, swings = float(rng.uniform(-0.45, 0.45)), rng.uniform(-0.6, 0.6, 2).tolist()
    # of the thigh's hinge, so that the lower foot touches the ground
    hip = 0.16 + 0.66 * math.cos(stride)
    shoulder = hip + 0.62
    legs = [(side, swing) for side, swing in ((0.11, stride), (-0.11, -stride))]
    feet = [
        Part(
            "capsule",
            (0.085, 0.0, 0.1),
            (0.66 * math.sin(swing) + 0.06, side * broad, hip - 0.66 * math.cos(swing) - 0.075),
            (0.0, math.pi / 2, 0.0),
            leather,
        )
        for side, swing in legs
    ]
    pieces = (
        (
            Part("sphere", (0.17, 0.0, 0.0), (0.0, 0.0, shoulder + 0.3), material=skin),
            Part("sphere", (0.175, 0.0, 0.0), (-0.035, 0.0, shoulder + 0.335), material=hair),
            Part("cylinder", (0.07, 0.0, 0.08), (0.0, 0.0, shoulder + 0.1), material=skin),
        ),
        (
            Part("capsule", (0.23 * broad, 0.0, 0.17), (0.0, 0.0, hip + 0.33), material=shirt),
            *(
                _limb((0.0, side * (0.22 * broad + 0.06), shoulder - 0.08), 0.5, 0.075, swing, shirt)
                for side, swing in zip((1, -1), swings, strict=True)
            ),
        ),
        tuple(_limb((0.0, side * broad, hip), 0.66, 0.115, swing, trousers) for side, swing in legs),
        tuple(feet),
    )
    return tuple(
        Thing(name, number, parts, turn=turn, radius=0.42, height=_HEIGHT, colour=upper)
        for number, (name, parts) in enumerate(zip(PARTS, pieces, strict=True))
    )


def _drawn(rng: np.random.Generator, seed: int, person: int) -> Scene:
    outfits = np.random.default_rng([seed, len(_OUTFITS)]).permutation(len(_OUTFITS))
    upper, lower = _OUTFITS[int(outfits[person])]
    things = draw_person(rng, np.random.default_rng([seed, person]), upper, lower)
    return furnish(rng, _SURROUNDINGS, things)


def samples(block: Block, *, people: int = 20, truth: Truth = "parts") -> list[Sample]:
    """One person a picture, each time in another pose and place, seen from another side.

    The same people, told apart by their clothes, are in training, validation and test. Pictures are best twice as high
    as wide: `scenes:people?size=64x32`.

    Args:
        block: Which samples.
        people: How many there are.
        truth: "parts" gives `semantic`, the number of the part that each pixel shows, 0 for none; "person" gives
            `label`, who it is.
    """
    if not 2 <= people <= len(_OUTFITS):
        raise UserError(f"the option 'people' must be from 2 to {len(_OUTFITS)}, got {people}")
    scenes, who = [], []
    for rng in block.generators():
        who.append(int(rng.integers(people)))
        scenes.append(_drawn(rng, block.seed, who[-1]))
    if truth == "person":
        pictures = block.apart(block.render(scenes, "image"))
        return [sample | {"label": number} for sample, number in zip(pictures, who, strict=True)]
    pictures = block.apart(block.render(scenes, "image", "semantic"))
    # background and ground are 0 and 1 in a rendering
    return [sample | {"semantic": (sample["semantic"] - 1).clamp(min=0)} for sample in pictures]


def classes(*, people: int = 20, truth: Truth = "parts") -> tuple[str, ...]:
    """Names of the parts, or of the people."""
    return PART_CLASSES if truth == "parts" else tuple(f"person {number + 1}" for number in range(people))


LABEL = Label("people and the parts of their bodies", samples, classes)
