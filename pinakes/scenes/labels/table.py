"""Classes with a table: what can be measured of the main thing, and columns that say nothing of it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pinakes.data.base import Column, Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_portrait
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.forms import CLASSES, COLOURS
from pinakes.scenes.label import Block, Label
from pinakes.scenes.textures import TEXTURE_NAMES

MORPHOMETRIC = ("area", "width", "height", "fill", "elongation", "uprightness")
"""The columns of size and shape."""

OTHER = ("x", "y", "brightness", "colour", "texture")
"""The other columns that say something of the thing."""

CHOICES = {"colour": tuple(COLOURS), "texture": TEXTURE_NAMES}
"""What the numbers of some columns stand for."""


def columns(*, noise: int = 4, **options: object) -> tuple[Column, ...]:
    """The columns, given the options of the spec."""
    names = (*MORPHOMETRIC, *OTHER, *(f"noise {number}" for number in range(1, noise + 1)))
    return tuple(Column(name, CHOICES.get(name, ())) for name in names)


def morphometry(mask: Bool[Tensor, "height width"]) -> Float[Tensor, " columns"]:
    """Size and shape of a region, as `MORPHOMETRIC` names them, and the place of its middle; 0 where there is none.

    Area, width and height are shares of those of the picture, and `fill` is the share of its upright box that it fills.
    `elongation` is 1 less the ratio of its axes, of the ellipse with the same second moments, and `uprightness` the
    cosine of twice the angle between the longer one and the vertical: 1 if it stands, -1 if it lies.

    Args:
        mask: Where the region is.
    """
    if not mask.any():
        return torch.zeros(len(MORPHOMETRIC) + 2)
    height, width = mask.shape
    rows, across = (each.double() for each in mask.nonzero(as_tuple=True))
    tall, wide = (each.max() - each.min() + 1 for each in (rows, across))
    places = torch.stack([rows, across])
    # a pixel is a square, whose own second moment is a twelfth
    spread = places.cov(correction=0) + torch.eye(2, dtype=torch.float64) / 12
    least, greatest = torch.linalg.eigvalsh(spread)
    slant = (spread[0, 0] - spread[1, 1]) / (greatest - least).clamp(min=1e-12)
    return torch.stack(
        [
            mask.double().mean(),
            wide / width,
            tall / height,
            len(rows) / (wide * tall),
            1 - (least / greatest).sqrt(),
            slant,
            (across.mean() + 0.5) / width,
            (rows.mean() + 0.5) / height,
        ]
    ).float()


def samples(
    block: Block, *, others: int = 1, noise: int = 4, textures: Source = "procedural"
) -> list[Sample]:
    """A large thing of a random class in the middle: `label` is its class, `table` (columns) what is seen of it.

    Size, shape, place and mean brightness are measured where the thing shows; colour and texture are the numbers of
    choices; the columns called noise are drawn from a normal distribution.

    Args:
        block: Which samples.
        others: Most other things in a picture.
        noise: Columns that say nothing of the picture.
        textures: Where textures come from.
    """
    if noise < 0:
        raise UserError(f"the option 'noise' must not be negative, got {noise}")
    distribution = Distribution().textured_by(textures)
    generators = block.generators()
    scenes = [draw_portrait(rng, distribution, others=others) for rng in generators]
    rendered = block.render(scenes, "image", "instance")
    found = []
    for scene, rng, image, instance in zip(
        scenes, generators, rendered["image"], rendered["instance"], strict=True
    ):
        main, mask = scene.things[0], instance == 1
        brightness = image.mean(0)[mask].mean() if mask.any() else image.new_tensor(0.0)
        chosen = [list(COLOURS).index(main.colour), TEXTURE_NAMES.index(main.texture)]
        row = torch.cat(
            [
                morphometry(mask),
                torch.stack([brightness.float(), *torch.tensor(chosen, dtype=torch.float32)]),
                torch.from_numpy(rng.standard_normal(noise)).float(),
            ]
        )
        found.append({"image": image, "label": main.category, "table": row})
    return found


LABEL = Label("classes with a table of measurements", samples, lambda **options: CLASSES, columns=columns)
