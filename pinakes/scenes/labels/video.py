"""Short films with the tracks of points and things."""

from dataclasses import replace

import torch
from torch import Tensor

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.batch import batch_scenes
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.motion import correspond, moved, orbit, set_in_motion
from pinakes.scenes.renderer import render


def samples(
    block: Block,
    *,
    things: int = 4,
    frames: int = 8,
    points: int = 64,
    speed: float = 0.12,
    textures: Source = "procedural",
) -> list[Sample]:
    """Things that move while the camera turns around them.

    `frames` is (frame, 3, height, width), and `image` the first of them; `instance` (frame, height, width) keeps
    the id of each thing; `tracks` (point, frame, 2) are pixel coordinates of points chosen in the first frame, half
    of them on things if possible, and `visible` (point, frame) says when they are seen.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        frames: Frames of a film.
        points: Points that are tracked.
        speed: Fastest movement of a thing, in scene units a frame.
        textures: Where textures come from.
    """
    for name, value, least in (("frames", frames, 2), ("points", points, 1), ("speed", speed, 0)):
        if value < least:
            raise UserError(f"the option '{name}' must be at least {least}, got {value:g}")
    distribution = Distribution(things=about(things)).textured_by(textures)
    generators = block.generators()
    scenes, turns = [], []
    for rng in generators:
        scene = draw_scene(rng, replace(distribution, room=(0.95, 1.15)))
        scenes.append(set_in_motion(rng, scene, speed, speed, frames))
        turns.append(rng.uniform(-0.02, 0.02, 2))
    start = batch_scenes(scenes)
    pictures, instances, tracks, seen = [], [], [], []
    chosen: Tensor | None = None
    for time in range(frames):
        now = start.at(float(time))
        cameras = block.cameras(
            [orbit(s.camera, time * a, 0.3 * time * b) for s, (a, b) in zip(scenes, turns, strict=True)]
        )
        out = render(now, cameras, ("image", "instance", "position"))
        if chosen is None:
            things_first = (out["instance"].flatten(1) > 0).float()
            share = 0.5 / things_first.mean(1, keepdim=True).clamp(0.02, 0.98)
            odds = things_first * share + (1 - things_first) * 0.5
            noise = torch.stack([torch.from_numpy(rng.random(odds.shape[1])).float() for rng in generators])
            chosen = (noise.log() / odds).topk(min(points, odds.shape[1]), dim=1).indices
            places = out["position"].flatten(2).gather(2, chosen[:, None].expand(-1, 3, -1)).transpose(0, 1)
            owner = out["instance"].flatten(1).gather(1, chosen)
        there = correspond(moved(places, owner, start, now), now, cameras)
        pictures.append(out["image"])
        instances.append(out["instance"])
        tracks.append(there.pixels.permute(1, 2, 0))
        seen.append(there.visible)
    return block.apart(
        {
            "image": pictures[0],
            "frames": torch.stack(pictures, dim=1),
            "instance": torch.stack(instances, dim=1),
            "tracks": torch.stack(tracks, dim=2),
            "visible": torch.stack(seen, dim=2),
        }
    )


LABEL = Label("short films with tracks", samples, count=200)
