"""Two pictures side by side, and how far each point moves between them."""

import torch

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.motion import flow
from pinakes.scenes.renderer import render


def samples(
    block: Block, *, things: int = 5, baseline: float = 0.3, textures: Source = "procedural"
) -> list[Sample]:
    """A rectified pair: `image` is the left picture, `image_right` the right one.

    `disparity` (height, width) is how many pixels further left a point of the left picture is in the right one;
    `occluded` is true where it is hidden or out of the picture there. `depth`, `intrinsics` and `baseline` satisfy
    disparity = focal length x baseline / depth.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        baseline: Distance between the cameras, in scene units.
        textures: Where textures come from.
    """
    if baseline <= 0:
        raise UserError(f"the option 'baseline' must be positive, got {baseline:g}")
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    batch, left = batch_scenes(scenes), block.cameras([scene.camera for scene in scenes])
    right = left.shifted(baseline)
    out = render(batch, left, ("image", "depth", "position", "instance"))
    shift, visible = flow(out["position"], out["instance"], batch, batch, right)
    return block.apart(
        {
            "image": out["image"],
            "image_right": render(batch, right, ("image",))["image"],
            "disparity": -shift[:, 0],
            "occluded": ~visible,
            "depth": out["depth"],
            "intrinsics": left.intrinsics,
            "baseline": torch.full((len(scenes),), baseline),
        }
    )


LABEL = Label("rectified pairs with disparity and occlusion", samples)
