"""Manufactured parts for inspection: all of one kind alike, but for the small differences of good pieces."""

import math
from collections.abc import Callable

import numpy as np

from pinakes.scenes.distribution import jittered, mixed
from pinakes.scenes.world import Camera, Light, Material, Part, Scene, Thing, Triple


def _metal(rng: np.random.Generator, colour: Triple) -> Material:
    main = jittered(rng, colour, 0.012)
    return Material(
        "cloudy", main, mixed(main, (0.0, 0.0, 0.0), 0.1), 0.12, float(rng.random()), 0, 0.35, 25.0
    )


def _paint(rng: np.random.Generator, colour: Triple) -> Material:
    return Material(colour=jittered(rng, colour, 0.012), specular=0.25, gloss=30.0)


def _ring(count: int, radius: float) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(radius * math.cos(a), radius * math.sin(a)) for a in angles]


def _flange(rng: np.random.Generator) -> tuple[Part, ...]:
    steel, dark, brass = (
        _metal(rng, (0.66, 0.68, 0.71)),
        _metal(rng, (0.40, 0.42, 0.46)),
        _paint(rng, (0.80, 0.62, 0.26)),
    )
    bolts = [Part("cylinder", (0.075, 0, 0.06), (x, y, 0.2), material=brass) for x, y in _ring(6, 0.5)]
    return (
        *bolts,
        Part("torus", (0.22, 0.05, 0), (0, 0, 0.31), material=dark),
        Part("cylinder", (0.7, 0, 0.08), (0, 0, 0.08), material=steel),
        Part("cylinder", (0.22, 0, 0.16), (0, 0, 0.16), material=dark),
        Part("torus", (0.64, 0.05, 0), (0, 0, 0.16), material=steel),
    )


def _board(rng: np.random.Generator) -> tuple[Part, ...]:
    green, black, silver, copper = (
        _paint(rng, (0.12, 0.42, 0.28)),
        _paint(rng, (0.13, 0.13, 0.15)),
        _metal(rng, (0.75, 0.76, 0.78)),
        _paint(rng, (0.83, 0.52, 0.30)),
    )
    pins = [
        Part("sphere", (0.05, 0, 0), (x, -0.42, 0.13), material=copper) for x in (-0.55, -0.33, -0.11, 0.11)
    ]
    return (
        *pins,
        Part("cylinder", (0.1, 0, 0.12), (0.5, 0.3, 0.21), material=silver),
        Part("cylinder", (0.1, 0, 0.12), (0.5, -0.02, 0.21), material=silver),
        Part("box", (0.22, 0.2, 0.05), (-0.32, 0.18, 0.15), material=black),
        Part("capsule", (0.06, 0, 0.1), (0.42, -0.38, 0.14), (0, math.pi / 2, 0), material=copper),
        Part("box", (0.76, 0.56, 0.05), (0, 0, 0.05), material=green),
    )


def _sweets(rng: np.random.Generator) -> tuple[Part, ...]:
    card, red, cream, cocoa = (
        _paint(rng, (0.86, 0.83, 0.76)),
        _paint(rng, (0.72, 0.18, 0.20)),
        _paint(rng, (0.92, 0.80, 0.58)),
        _paint(rng, (0.36, 0.22, 0.15)),
    )
    places = [(x, y) for y in (-0.38, 0, 0.38) for x in (-0.38, 0, 0.38)]
    pieces = []
    for i, (x, y) in enumerate(places):
        if i % 2 == 0:
            pieces.append(Part("sphere", (0.15, 0, 0), (x, y, 0.19), material=cocoa))
        elif i % 4 == 1:
            pieces.append(Part("torus", (0.1, 0.055, 0), (x, y, 0.13), material=red))
        else:
            pieces.append(Part("cylinder", (0.14, 0, 0.07), (x, y, 0.15), material=cream))
    walls = [Part("box", (0.63, 0.03, 0.13), (0, y, 0.13), material=card) for y in (-0.6, 0.6)] + [
        Part("box", (0.03, 0.63, 0.13), (x, 0, 0.13), material=card) for x in (-0.6, 0.6)
    ]
    return (*pieces, Part("box", (0.63, 0.63, 0.04), (0, 0, 0.04), material=card), *walls)


PRODUCTS: dict[str, Callable[[np.random.Generator], tuple[Part, ...]]] = {
    "flange": _flange,
    "board": _board,
    "sweets": _sweets,
}
LOOSE = {"flange": 7, "board": 8, "sweets": 9}
"""How many of the first parts of each product may be missing or swapped."""

_BELTS: dict[str, Triple] = {
    "flange": (0.30, 0.33, 0.38), "board": (0.72, 0.72, 0.74), "sweets": (0.40, 0.52, 0.56),
}  # fmt: skip


def draw_product(rng: np.random.Generator, name: str) -> Scene:
    """A good piece on a plain belt, seen from above, a little turned and shifted, in steady light."""
    x, y = rng.uniform(-0.04, 0.04, 2).tolist()
    turn = (0.0, 0.0, float(rng.uniform(-0.14, 0.14)))
    thing = Thing(name, 0, PRODUCTS[name](rng), (x, y, 0.0), turn, radius=0.95, height=0.4)
    belt = Material(colour=jittered(rng, _BELTS[name], 0.012))
    power = float(rng.uniform(0.8, 0.88))
    lamp = Light((-4.2, 3.0, 7.0), 0.7, (power, power, 0.98 * power))
    camera = Camera((0.0, -2.6, 4.6), (0.0, -0.02, 0.08), 21.0)
    return Scene((thing,), belt, belt, (lamp,), (0.42, 0.42, 0.43), camera)
