"""The things of the world: how each class is put together from primitives.

Every form stands on z = 0 of its own frame, about one unit tall before it is scaled.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pinakes.scenes.world import Material, Part, Triple

QUARTER = math.pi / 2


class Form(NamedTuple):
    """Parts of a thing of unit scale, the cylinder around it, and the radius of its flat top (0 for none)."""

    parts: tuple[Part, ...]
    radius: float
    height: float
    top: float = 0.0


Builder = Callable[[np.random.Generator, Material, Material], Form]


def _sphere(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    return Form((Part("sphere", (0.5, 0.0, 0.0), (0, 0, 0.5), material=main),), 0.5, 1.0)


def _box(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    x, y, z = 0.42, 0.42 * rng.uniform(0.75, 1.15), 0.42 * rng.uniform(0.7, 1.2)
    return Form((Part("box", (x, y, z), (0, 0, z), material=main),), math.hypot(x, y), 2 * z, min(x, y))


def _cylinder(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    radius, half = 0.4 * rng.uniform(0.8, 1.1), 0.42 * rng.uniform(0.7, 1.2)
    return Form((Part("cylinder", (radius, 0, half), (0, 0, half), material=main),), radius, 2 * half, radius)


def _cone(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    half = 0.52 * rng.uniform(0.85, 1.15)
    return Form((Part("cone", (0.48, 0, half), (0, 0, half), material=main),), 0.48, 2 * half)


def _torus(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    ring, tube = 0.38, 0.38 * rng.uniform(0.34, 0.46)
    if rng.random() < 0.5:
        part = Part("torus", (ring, tube, 0), (0, 0, ring + tube), (QUARTER, 0, 0), main)
        return Form((part,), ring + tube, 2 * (ring + tube))
    return Form((Part("torus", (ring, tube, 0), (0, 0, tube), material=main),), ring + tube, 2 * tube)


def _capsule(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    radius, half = 0.27, 0.3 * rng.uniform(0.8, 1.2)
    if rng.random() < 0.5:
        part = Part("capsule", (radius, 0, half), (0, 0, radius + half), material=main)
        return Form((part,), radius, 2 * (radius + half))
    part = Part("capsule", (radius, 0, half), (0, 0, radius), (QUARTER, 0, 0), main)
    return Form((part,), radius + half, 2 * radius)


def _mug(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    inside = replace(accent, texture="plain", specular=0.0)
    solid = replace(main, texture="plain")
    parts = (
        Part("cylinder", (0.36, 0, 0.42), (0, 0, 0.42), material=main),
        Part("torus", (0.33, 0.035, 0), (0, 0, 0.84), material=solid),
        Part("cylinder", (0.32, 0, 0.01), (0, 0, 0.84), material=inside),
        Part("torus", (0.22, 0.065, 0), (0.38, 0, 0.42), (QUARTER, 0, 0), solid),
    )
    return Form(parts, 0.6, 0.9)


def _table(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    x, y, z = 0.58, 0.42 * rng.uniform(0.9, 1.2), 0.6 * rng.uniform(0.8, 1.1)
    legs = replace(accent, texture="plain")
    corners = [(sx * (x - 0.09), sy * (y - 0.09)) for sx in (-1, 1) for sy in (-1, 1)]
    parts = (
        Part("box", (x, y, 0.05), (0, 0, z + 0.05), material=main),
        *(Part("cylinder", (0.055, 0, z / 2), (u, v, z / 2), material=legs) for u, v in corners),
    )
    return Form(parts, math.hypot(x, y), z + 0.1, y)


def _figure(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    skin = replace(accent, texture="plain")
    lean = rng.uniform(0.35, 0.9)
    arms = tuple(
        Part(
            "capsule",
            (0.06, 0, 0.17),
            (side * (0.13 + 0.17 * math.sin(lean)), 0, 0.74 - 0.17 * math.cos(lean)),
            (0, -side * lean, 0),
            skin,
        )
        for side in (-1, 1)
    )
    parts = (
        Part("cone", (0.32, 0, 0.46), (0, 0, 0.46), material=main),
        Part("sphere", (0.2, 0, 0), (0, 0, 0.98), material=skin),
        *arms,
    )
    return Form(parts, 0.45, 1.18)


def _lamp(rng: np.random.Generator, main: Material, accent: Material) -> Form:
    metal = replace(accent, texture="plain")
    parts = (
        Part("cylinder", (0.27, 0, 0.04), (0, 0, 0.04), material=metal),
        Part("cylinder", (0.045, 0, 0.36), (0, 0, 0.42), material=metal),
        Part("cone", (0.42, 0, 0.27), (0, 0, 0.92), material=main),
    )
    return Form(parts, 0.42, 1.2)


FORMS: dict[str, Builder] = {
    "sphere": _sphere,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
    "capsule": _capsule,
    "mug": _mug,
    "table": _table,
    "figure": _figure,
    "lamp": _lamp,
}
CLASSES = tuple(FORMS)
"""Names of the classes in the order of their integer categories."""

COLOURS: dict[str, Triple] = {
    "red": (0.80, 0.16, 0.15),
    "orange": (0.93, 0.52, 0.13),
    "yellow": (0.93, 0.79, 0.22),
    "green": (0.22, 0.60, 0.27),
    "cyan": (0.22, 0.68, 0.74),
    "blue": (0.17, 0.33, 0.76),
    "purple": (0.52, 0.26, 0.66),
    "pink": (0.92, 0.55, 0.67),
    "brown": (0.47, 0.30, 0.18),
    "white": (0.90, 0.89, 0.86),
}
"""Named colours of things, sRGB."""


def scaled(parts: tuple[Part, ...], factor: float) -> tuple[Part, ...]:
    """The same parts, larger or smaller."""

    def times(triple: Triple) -> Triple:
        x, y, z = triple
        return factor * x, factor * y, factor * z

    return tuple(replace(part, size=times(part.size), offset=times(part.offset)) for part in parts)
