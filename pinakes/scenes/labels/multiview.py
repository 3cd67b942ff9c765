"""Posed pictures of one scene: what a radiance field is fitted to and judged on."""

import numpy as np

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.motion import orbit
from pinakes.scenes.renderer import render


def samples(
    block: Block, *, things: int = 4, spread: float = 180.0, textures: Source = "procedural"
) -> list[Sample]:
    """Every sample is another view of the same scene, which the seed alone decides: `image`, `pose`
    world-from-camera (4, 4), `intrinsics` (3, 3) and `depth` (height, width).

    Args:
        block: Which samples.
        things: Things in the scene, one more or less.
        spread: Most degrees around the scene from the middle view; 180 is all around.
        textures: Where textures come from.
    """
    if not 0 < spread <= 180:
        raise UserError(f"the option 'spread' must be above 0 and at most 180 degrees, got {spread:g}")
    distribution = Distribution(things=about(things)).textured_by(textures)
    scene = draw_scene(np.random.default_rng([block.seed, 0x5CE4E]), distribution)
    half = np.radians(spread)
    views = [
        orbit(scene.camera, float(rng.uniform(-half, half)), float(rng.uniform(-0.15, 0.35)), 1.1)
        for rng in block.generators()
    ]
    cameras = block.cameras(views)
    out = render(batch_scenes([scene] * len(views)), cameras, ("image", "depth"))
    return block.apart(out | {"pose": cameras.pose, "intrinsics": cameras.intrinsics})


LABEL = Label("posed pictures of one scene", samples, count=100)
