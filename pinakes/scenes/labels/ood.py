"""Pictures of things that are not like those seen in training: unseen shapes or unseen textures."""

from typing import Literal

import numpy as np

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, draw_thing, pick
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.label import Block, Label
from pinakes.scenes.world import Scene

KNOWN = ("sphere", "box", "cylinder", "capsule", "mug", "table")
UNKNOWN = ("cone", "torus", "figure", "lamp")
KNOWN_TEXTURES = ("plain", "striped", "gradient", "cloudy")
UNKNOWN_TEXTURES = ("checked", "dotted", "photo")

Novelty = Literal["shape", "texture", "both"]


def _draw(rng: np.random.Generator, novelty: str) -> Scene:
    shape = str(pick(rng, UNKNOWN if novelty == "shape" else KNOWN))
    texture = str(pick(rng, UNKNOWN_TEXTURES if novelty == "texture" else KNOWN_TEXTURES))
    distribution = Distribution(classes=KNOWN, textures=KNOWN_TEXTURES)
    main = draw_thing(rng, distribution, name=shape, texture=texture, scale=1.0)
    return draw_portrait(rng, distribution, main=main)


def samples(block: Block, *, novelty: Novelty = "both") -> list[Sample]:
    """One thing a picture. Training and validation show known shapes and textures, label 0, kind "good"; in the
    test every second one has an unseen shape or texture, label 1, and `kind` says which.

    `category` is the class of a known shape among the classes of `scenes:classification`, -1 for an unseen one.

    Args:
        block: Which samples.
        novelty: What may be new.
    """
    kinds, scenes = [], []
    for index, rng in zip(block.indices, block.generators(), strict=True):
        new = ("shape", "texture")[index // 2 % 2] if novelty == "both" else novelty
        kinds.append(new if block.split == "test" and index % 2 else "good")
        scenes.append(_draw(rng, kinds[-1]))
    return [
        sample
        | {
            "label": int(kind != "good"),
            "kind": kind,
            "category": -1 if kind == "shape" else CLASSES.index(scene.things[0].name),
        }
        for sample, kind, scene in zip(block.apart(block.render(scenes, "image")), kinds, scenes, strict=True)
    ]


LABEL = Label("unseen shapes and textures", samples, lambda **options: ("normal", "anomalous"))
