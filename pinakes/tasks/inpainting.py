"""Inpainting: fill the holes of an image so that it looks as if nothing had been missing.

Any images will do: holes are drawn into them, and what was there is the truth. `?holes=box` says of which kind, or of
which ones, `?holes=wide,narrow`; by default they are of every kind, image by image. What is in a hole is made 0 before
a method sees the image.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.errors import UserError, suggest
from pinakes.nn.holes import HOLES, drawn_hole
from pinakes.nn.image_quality import region_psnr
from pinakes.tasks.base import IMAGE, Batch, Field, Metric, Panel, Prediction, Task, to_pixels
from pinakes.tasks.restoration import (
    CLEAN,
    QUALITY,
    RESTORED,
    RestorationMeter,
    changed,
    restored_panels,
)

MIXED = "mixed"
MAGENTA = (240, 50, 230)
"""The colour of holes in pictures."""


def with_hole(sample: Sample, *, generator: torch.Generator, kinds: tuple[str, ...]) -> Sample:
    """A sample with a hole in its image and the true image; a hole or a true image of its own is kept.

    Args:
        sample: The sample.
        generator: What the hole is drawn from.
        kinds: Of which kinds it may be.
    """
    image, found = sample["image"], dict(sample)
    if "hole" not in found:
        kind = kinds[int(torch.randint(len(kinds), (), generator=generator))]
        height, width = image.shape[-2:]
        found |= {"hole": drawn_hole(kind, (height, width), generator), "hole_kind": kind}
    return found | {"image": image.masked_fill(found["hole"], 0), "clean": found.get("clean", image)}


class InpaintingMeter(RestorationMeter):
    """The metrics of restored images, and the signal-to-noise ratio inside the holes; by the kind of hole as well."""

    group = "hole_kind"

    @torch.no_grad()
    def measured(
        self,
        restored: Float[Tensor, "batch channels height width"],
        clean: Float[Tensor, "batch channels height width"],
        batch: Batch,
    ) -> dict[str, Float[Tensor, " batch"]]:
        """The metrics of each image by name, NaN where one cannot be had; keeps the features."""
        inside = region_psnr(restored, clean, batch["hole"].to(restored.device))
        return super().measured(restored, clean, batch) | {"hole_psnr": inside}


class Inpainting(Task):
    """Learn from whole images; judge by how near those with filled holes are to what they were."""

    name = "inpainting"
    title = "Inpainting"
    # the hole comes first, so that of two different sizes the image's is the one complained of
    inputs = {
        "hole": Field("True where pixels are missing", "batch height width", torch.bool),
        "image": replace(IMAGE, about="images, values 0 to 1, 0 where pixels are missing"),
    }
    truth = {"clean": CLEAN}
    prediction = RESTORED
    metrics = (
        *QUALITY,
        Metric("hole_psnr", "PSNR in holes", "peak signal-to-noise ratio of the missing pixels, in decibels"),
    )
    default_data = "textures?size=64&labels=material"
    example_data = "digits?n=20&size=16"
    options = {"holes": f"which holes are drawn: {MIXED}, or some of {', '.join(HOLES)}"}

    def arrange(self, data: TaskData) -> TaskData:
        """Draws holes into the images.

        Raises:
            UserError: If there is no such kind of hole.
        """
        words = data.wishes.get("holes", MIXED)
        kinds = tuple(HOLES) if words == MIXED else tuple(each.strip() for each in words.split(","))
        for kind in kinds:
            if kind not in HOLES:
                raise UserError(f"{data.spec}: holes: '{kind}' is unknown{suggest(kind, [MIXED, *HOLES])}")
        layout = f"{data.layout}; holes: {'; '.join(HOLES[kind] for kind in kinds)}"
        return changed(replace(data, layout=layout), with_hole, kinds=kinds)

    def meter(self, info: DataInfo) -> InpaintingMeter:
        """A fresh meter with the embedded features."""
        return InpaintingMeter()

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The image with its hole in magenta and, where it is known, the true one."""
        shown = to_pixels(sample["image"])
        if "hole" in sample:
            shown[sample["hole"].cpu().numpy()] = MAGENTA
        panels = [Panel(shown, str(sample.get("hole_kind", "with a hole")).replace("_", " "))]
        return panels + ([Panel(to_pixels(sample["clean"]), "true")] if "clean" in sample else [])

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The filled image, its error where the truth is known, and how it came to be."""
        return restored_panels(sample, prediction)


TASK = Inpainting()
