"""What can be wrong with a manufactured part: a mark somewhere on what is seen of it, or a piece that is not right."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pinakes.scenes.batch import rotations
from pinakes.scenes.world import Mark, Part, Scene, Triple

DEFECTS = ("scratch", "dent", "stain", "missing", "swapped")
"""Kinds of defects."""


def _local(scene: Scene, point: Float[Tensor, "3"]) -> Triple:
    thing = scene.things[0]
    offset = point - torch.tensor(thing.position)
    x, y, z = (rotations(torch.tensor(thing.turn)).T @ offset).tolist()
    return x, y, z


def mark(
    rng: np.random.Generator,
    scene: Scene,
    kind: str,
    position: Float[Tensor, "3 height width"],
    albedo: Float[Tensor, "3 height width"],
    seen: Bool[Tensor, "height width"],
) -> Scene:
    """The scene with a scratch, dent or stain on its first thing, at a place that is seen.

    Args:
        rng: Source of every random choice.
        scene: A good piece.
        kind: "scratch", "dent" or "stain".
        position: World position of every pixel of its picture.
        albedo: Linear colour of every pixel; scratches and stains stand out from it.
        seen: The pixels of the thing.
    """
    points = position[:, seen]
    place = int(rng.integers(points.shape[1]))
    start = end = points[:, place]
    dark = albedo[:, seen][:, place].mean() < 0.12
    radius = float(rng.uniform(0.1, 0.2))
    colour = (0.62, 0.55, 0.42) if dark else (0.2, 0.14, 0.08)
    if kind == "scratch":
        apart = (points - start[:, None]).square().sum(0).sqrt()
        level = (points[2] - start[2]).abs() < 0.03
        fitting = ((apart > 0.2) & (apart < 0.55) & level).nonzero()[:, 0]
        if len(fitting):
            end = points[:, int(fitting[int(rng.integers(len(fitting)))])]
        radius = float(rng.uniform(0.025, 0.04))
        colour = (0.85, 0.85, 0.85) if dark else (0.08, 0.07, 0.07)
    blemish = Mark(kind, 0, _local(scene, start), _local(scene, end), radius, colour, float(rng.random()))
    return replace(scene, marks=(blemish,))


def remove(rng: np.random.Generator, scene: Scene, loose: int) -> Scene:
    """The scene without one of the first `loose` parts of its first thing."""
    thing, lost = scene.things[0], int(rng.integers(loose))
    parts = thing.parts[:lost] + thing.parts[lost + 1 :]
    return scene.with_things(replace(thing, parts=parts))


def swap(rng: np.random.Generator, scene: Scene, loose: int) -> Scene:
    """The scene with one of the first `loose` parts of its first thing in a wrong shape and colour."""
    thing, wrong = scene.things[0], int(rng.integers(loose))
    old = thing.parts[wrong]
    kinds = [kind for kind in ("sphere", "box", "cone") if kind != old.kind]
    size = max(0.07, min(0.13, max(old.size)))
    colours: Sequence[Triple] = ((0.75, 0.2, 0.18), (0.2, 0.35, 0.7), (0.85, 0.85, 0.8), (0.25, 0.55, 0.3))
    material = replace(old.material, texture="plain", colour=colours[int(rng.integers(len(colours)))])
    new = Part(kinds[int(rng.integers(len(kinds)))], (size, size, 0.8 * size), old.offset, material=material)
    parts = (*thing.parts[:wrong], new, *thing.parts[wrong + 1 :])
    return scene.with_things(replace(thing, parts=parts))
