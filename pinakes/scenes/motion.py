"""Where the points of one picture are in another: after things moved, from another camera, or both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pinakes.scenes.batch import SceneBatch
from pinakes.scenes.camera import Cameras, Rays
from pinakes.scenes.tracer import Solids, trace
from pinakes.scenes.world import Camera, Scene, Thing

TOLERANCE = 5e-3
"""How far behind the surface that a camera sees a point may lie and still count as seen, in scene units."""


@dataclass(frozen=True)
class Correspondence:
    """Where points are seen in another picture.

    Args:
        pixels: Pixel coordinates there, (2, scene, ray), components first.
        depth: Depth there, (scene, ray).
        visible: Whether they are within that picture and nothing hides them, (scene, ray).
    """

    pixels: Float[Tensor, "2 scene ray"]
    depth: Float[Tensor, "scene ray"]
    visible: Bool[Tensor, "scene ray"]


def moved(
    points: Float[Tensor, "3 scene ray"],
    instance: Int[Tensor, "scene ray"],
    before: SceneBatch,
    after: SceneBatch,
) -> Float[Tensor, "3 scene ray"]:
    """Points that are fixed to things, in the world after the things moved.

    Args:
        points: Points in the world of `before`.
        instance: The thing of each, plus one; 0 for points that stand still.
        before: The scenes in which the points are.
        after: The same scenes at another time.
    """
    rotation = after.thing_rotation @ before.thing_rotation.transpose(-1, -2)
    shift = after.thing_position - (rotation @ before.thing_position[..., None])[..., 0]
    still = torch.eye(3, 4, device=points.device).expand(len(before), 1, 3, 4)
    motion = torch.cat([still, torch.cat([rotation, shift[..., None]], dim=-1)], dim=1)
    scene = torch.arange(len(before), device=points.device)[:, None]
    m = motion[scene, instance].movedim((2, 3), (0, 1))
    return (m[:, :3] * points).sum(1) + m[:, 3]


def correspond(
    points: Float[Tensor, "3 scene ray"], scenes: SceneBatch, cameras: Cameras, solids: Solids | None = None
) -> Correspondence:
    """Where points of the world are in a picture, and whether they are seen there, by a ray to each of them.

    Args:
        points: Points on surfaces.
        scenes: The scenes as the camera sees them.
        cameras: The cameras that look.
        solids: The parts of the scenes, if they have been arranged already.
    """
    pixels, depth = cameras.project(points), cameras.depth(points)
    origin = cameras.pose[:, :3, 3].T[:, :, None].expand_as(points)
    towards = points - origin
    distance = towards.square().sum(0).sqrt()
    hits = trace(solids or Solids(scenes), Rays(origin, towards / distance))
    visible = (hits.distance > distance - TOLERANCE) & (depth > 1e-3)
    for coordinate, length in zip(pixels, (cameras.width, cameras.height), strict=True):
        visible &= (coordinate >= -0.5) & (coordinate <= length - 0.5)
    return Correspondence(pixels, depth, visible)


def flow(
    position: Float[Tensor, "scene 3 height width"],
    instance: Int[Tensor, "scene height width"],
    before: SceneBatch,
    after: SceneBatch,
    cameras: Cameras,
) -> tuple[Float[Tensor, "scene 2 height width"], Bool[Tensor, "scene height width"]]:
    """Movement in pixels, right and down, from a picture to another one, and which pixels are seen in both.

    Args:
        position: World position of every pixel of the first picture.
        instance: Its instance ids.
        before: The scenes of the first picture.
        after: The scenes of the second picture.
        cameras: The cameras of the second picture.
    """
    shape = position.shape[2:]
    points = moved(position.transpose(0, 1).flatten(2), instance.flatten(1), before, after)
    there = correspond(points, after, cameras)
    displacement = (there.pixels - cameras.pixels()).unflatten(2, shape).transpose(0, 1)
    return displacement, there.visible.unflatten(1, shape)


def orbit(camera: Camera, azimuth: float, elevation: float = 0.0, zoom: float = 1.0) -> Camera:
    """A camera turned around its target by angles in radians, and moved to `zoom` times the distance."""
    offset = np.subtract(camera.position, camera.target)
    distance = float(np.linalg.norm(offset)) * zoom
    height = math.asin(offset[2] / np.linalg.norm(offset)) + elevation
    height = min(max(height, 0.1), 1.4)
    around = math.atan2(offset[1], offset[0]) + azimuth
    x, y, z = camera.target
    across = distance * math.cos(height)
    position = (x + across * math.cos(around), y + across * math.sin(around), z + distance * math.sin(height))
    return replace(camera, position=position)


def set_in_motion(rng: np.random.Generator, scene: Scene, speed: float, spin: float, frames: int) -> Scene:
    """The scene with every thing moving on the ground so that none runs into another.

    Args:
        rng: Source of every random choice.
        scene: A scene at rest.
        speed: Fastest movement, in scene units a frame.
        spin: Fastest rotation, in radians a frame.
        frames: For how many frames the way must be free.
    """
    things: list[Thing] = []
    for index, thing in enumerate(scene.things):
        if thing.stands_on >= 0:
            carrier = things[thing.stands_on]
            things.append(replace(thing, velocity=carrier.velocity, spin=carrier.spin))
            continue
        turning = float(rng.uniform(-spin, spin))
        moving = replace(thing, spin=turning)
        for _ in range(12):
            heading, pace = rng.uniform(0, 2 * math.pi), speed * rng.uniform(0.3, 1.0)
            velocity = (pace * math.cos(heading), pace * math.sin(heading), 0.0)
            tried = replace(moving, velocity=velocity)
            if _way_is_free(tried, [*things, *scene.things[index + 1 :]], frames):
                moving = tried
                break
        things.append(moving)
    return scene.with_things(*things)


def _way_is_free(thing: Thing, others: Sequence[Thing], frames: int) -> bool:
    for other in others:
        if other.stands_on >= 0:
            continue
        dx, dy = (thing.position[i] - other.position[i] for i in (0, 1))
        vx, vy = (thing.velocity[i] - other.velocity[i] for i in (0, 1))
        square = vx * vx + vy * vy
        closest = min(max(-(dx * vx + dy * vy) / square, 0.0), float(frames)) if square > 0 else 0.0
        if math.hypot(dx + closest * vx, dy + closest * vy) < thing.radius + other.radius:
            return False
    return True
