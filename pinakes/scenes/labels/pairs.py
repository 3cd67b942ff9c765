"""Two views of one scene at rest."""

import math

import torch

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.motion import flow, orbit
from pinakes.scenes.renderer import render


def samples(
    block: Block, *, things: int = 5, angle: float = 25.0, textures: Source = "procedural"
) -> list[Sample]:
    """Pictures `image` and `image_2` with their poses `pose` and `pose_2`, world-from-camera; `relative_pose` takes
    points from the first camera's frame to the second's. `flow` (2, height, width) leads from pixels of the first
    picture to the second, `visible` is true where a point is seen in both; `depth` and `depth_2` are theirs.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        angle: Most degrees between the directions of the two views.
        textures: Where textures come from.
    """
    if not 0 < angle <= 90:
        raise UserError(f"the option 'angle' must be above 0 and at most 90 degrees, got {angle:g}")
    distribution = Distribution(things=about(things)).textured_by(textures)
    generators = block.generators()
    scenes = [draw_scene(rng, distribution) for rng in generators]
    others = []
    for scene, rng in zip(scenes, generators, strict=True):
        turn = math.radians(angle) * float(rng.uniform(0.3, 0.9)) * (1 if rng.random() < 0.5 else -1)
        tilt = math.radians(angle) * float(rng.uniform(-0.3, 0.3))
        others.append(orbit(scene.camera, turn, tilt, float(rng.uniform(0.92, 1.08))))
    batch = batch_scenes(scenes)
    first, second = block.cameras([scene.camera for scene in scenes]), block.cameras(others)
    one = render(batch, first, ("image", "depth", "position", "instance"))
    two = render(batch, second, ("image", "depth"))
    displacement, visible = flow(one["position"], one["instance"], batch, batch, second)
    return block.apart(
        {
            "image": one["image"],
            "image_2": two["image"],
            "pose": first.pose,
            "pose_2": second.pose,
            "relative_pose": torch.linalg.inv(second.pose) @ first.pose,
            "intrinsics": first.intrinsics,
            "flow": displacement,
            "visible": visible,
            "depth": one["depth"],
            "depth_2": two["depth"],
        }
    )


LABEL = Label("two views with poses, flow and co-visibility", samples)
