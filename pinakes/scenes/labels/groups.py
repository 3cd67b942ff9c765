"""A protected attribute that goes with the label to a chosen degree."""

from dataclasses import replace
from typing import Literal

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, draw_thing
from pinakes.scenes.label import Block, Label

GROUP_CLASSES = ("cylinder", "capsule")
"""The two classes that are to be told apart."""

WARM, COLD = ("red", "orange", "yellow"), ("cyan", "blue", "purple")
GROUNDS = ("checked", "cloudy")


def samples(
    block: Block, *, correlation: float = 0.8, attribute: Literal["colour", "ground"] = "colour"
) -> list[Sample]:
    """One cylinder (label 0) or capsule (label 1) a picture, and the `group` 0 or 1 that must not matter.

    In training the group equals the label with probability (1 + correlation) / 2; in validation and test each of
    the four combinations is equally common.

    Args:
        block: Which samples.
        correlation: Correlation of group and label in training, from -1 to 1.
        attribute: What the group is: warm or cold colours, or a checked or cloudy ground.
    """
    if not -1 <= correlation <= 1:
        raise UserError(f"the option 'correlation' must be from -1 to 1, got {correlation:g}")
    scenes, labels, groups = [], [], []
    for index, rng in zip(block.indices, block.generators(), strict=True):
        label = index % 2
        same = rng.random() < (1 + correlation) / 2 if block.split == "train" else index // 2 % 2 == 0
        group = label if same else 1 - label
        distribution = Distribution()
        if attribute == "colour":
            distribution = replace(distribution, colours=(WARM, COLD)[group], grounds=("plain",))
        else:
            distribution = replace(distribution, grounds=(GROUNDS[group],))
        main = draw_thing(rng, distribution, name=GROUP_CLASSES[label], scale=1.0)
        scenes.append(draw_portrait(rng, distribution, main=main))
        labels.append(label)
        groups.append(group)
    pictures = block.apart(block.render(scenes, "image"))
    return [
        sample | {"label": label, "group": group}
        for sample, label, group in zip(pictures, labels, groups, strict=True)
    ]


LABEL = Label("a label and a protected group", samples, lambda **options: GROUP_CLASSES)
