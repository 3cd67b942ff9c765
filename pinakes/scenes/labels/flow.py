"""Two frames between which things and the camera move."""

import numpy as np

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.motion import flow, orbit, set_in_motion
from pinakes.scenes.renderer import render
from pinakes.scenes.world import Camera


def _shaken(camera: Camera, rng: np.random.Generator) -> Camera:
    azimuth, elevation = rng.uniform(-0.05, 0.05, 2).tolist()
    return orbit(camera, azimuth, elevation, float(rng.uniform(0.97, 1.03)))


def samples(
    block: Block,
    *,
    things: int = 5,
    speed: float = 0.25,
    still_camera: bool = False,
    textures: Source = "procedural",
) -> list[Sample]:
    """Frames `image` and `image_2`; `flow` (2, height, width) is the movement of each pixel of the first, right and
    down, in pixels; `visible` is true where its point is seen in the second.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        speed: Fastest movement of a thing, in scene units a frame.
        still_camera: Whether only things move.
        textures: Where textures come from.
    """
    if speed < 0:
        raise UserError(f"the option 'speed' must not be negative, got {speed:g}")
    distribution = Distribution(things=about(things)).textured_by(textures)
    generators = block.generators()
    scenes = [set_in_motion(rng, draw_scene(rng, distribution), speed, 1.2 * speed, 1) for rng in generators]
    cameras = [scene.camera for scene in scenes]
    if not still_camera:
        cameras = [_shaken(camera, rng) for camera, rng in zip(cameras, generators, strict=True)]
    before, first, second = (
        batch_scenes(scenes),
        block.cameras([s.camera for s in scenes]),
        block.cameras(cameras),
    )
    after = before.at(1.0)
    one = render(before, first, ("image", "position", "instance"))
    displacement, visible = flow(one["position"], one["instance"], before, after, second)
    return block.apart(
        {
            "image": one["image"],
            "image_2": render(after, second, ("image",))["image"],
            "flow": displacement,
            "visible": visible,
        }
    )


LABEL = Label("two frames with optical flow", samples)
