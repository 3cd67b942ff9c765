"""The scene graph: where things are with respect to each other, as the camera sees them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pinakes.scenes.world import Scene

RELATIONS = ("left of", "right of", "in front of", "behind", "on", "under")
"""Spatial relations in the order of their numbers; the first is the inverse of the second, and so on."""

LEAST_GAP = 0.25
"""How far apart two things must be for a direction to be told, in scene units."""


class Relation(NamedTuple):
    """`subject` is `name` `target`: thing 0 is left of thing 1. Both are indices of things."""

    subject: int
    target: int
    name: str


def inverse(name: str) -> str:
    """The relation of the target to the subject."""
    return RELATIONS[RELATIONS.index(name) ^ 1]


def _seen_from(scene: Scene) -> np.ndarray:
    """How far right and how far away each thing is, (thing, 2), measured along the ground."""
    forward = np.subtract(scene.camera.target, scene.camera.position)[:2]
    forward = forward / np.linalg.norm(forward)
    right = np.array([forward[1], -forward[0]])
    offsets = np.array([thing.position[:2] for thing in scene.things]) - np.array(scene.camera.position[:2])
    return np.stack([offsets @ right, offsets @ forward], axis=1)


def _name(first: np.ndarray, second: np.ndarray) -> str | None:
    right, away = first - second
    if max(abs(right), abs(away)) < LEAST_GAP:
        return None
    if abs(away) > abs(right):
        return "behind" if away > 0 else "in front of"
    bearing = first[0] / first[1] - second[0] / second[1]
    if bearing * right <= 0:
        return None
    return "right of" if right > 0 else "left of"


def relations(scene: Scene, among: Sequence[int] | None = None) -> list[Relation]:
    """All relations between things: at most one for each ordered pair, the one along which they differ most.

    Left, right, in front and behind are the camera's, measured along the ground. A thing that is neither clearly
    beside nor clearly behind another has no relation to it.

    Args:
        scene: The scene.
        among: Indices of the things that count; by default all.
    """
    chosen = list(range(len(scene.things)) if among is None else among)
    seen = _seen_from(scene)
    found = []
    for i in chosen:
        for j in chosen:
            if i == j:
                continue
            if scene.things[i].stands_on == j:
                found.append(Relation(i, j, "on"))
            elif scene.things[j].stands_on == i:
                found.append(Relation(i, j, "under"))
            elif (name := _name(seen[i], seen[j])) is not None:
                found.append(Relation(i, j, name))
    return found
