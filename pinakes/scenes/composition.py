"""Scenes drawn from a distribution: things in their places, surroundings, lamps, and a camera that sees them."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pinakes.scenes.distribution import Distribution, arrange, between, draw_thing, jittered, mixed, pick
from pinakes.scenes.photographs import PHOTOGRAPHS
from pinakes.scenes.world import Camera, Light, Material, Scene, Thing, Triple

FIELD_OF_VIEW = 32.0
"""Vertical field of view of drawn cameras, in degrees."""

_GROUNDS: tuple[Triple, ...] = (
    (0.74, 0.72, 0.68), (0.66, 0.69, 0.72), (0.78, 0.70, 0.58), (0.62, 0.68, 0.58),
    (0.70, 0.62, 0.58), (0.58, 0.60, 0.66),
)  # fmt: skip
_HORIZONS: tuple[Triple, ...] = (
    (0.93, 0.91, 0.87), (0.88, 0.92, 0.95), (0.96, 0.90, 0.82), (0.86, 0.90, 0.88), (0.92, 0.87, 0.90),
)  # fmt: skip
_ZENITHS: tuple[Triple, ...] = (
    (0.45, 0.62, 0.80), (0.60, 0.66, 0.72), (0.52, 0.50, 0.68), (0.42, 0.62, 0.64), (0.72, 0.62, 0.60),
)  # fmt: skip


def draw_camera(rng: np.random.Generator, distribution: Distribution, things: Sequence[Thing]) -> Camera:
    """A camera somewhere around these things, just far enough to see them all."""
    edges = [
        (thing.position[axis] - thing.radius, thing.position[axis] + thing.radius)
        for axis in (0, 1)
        for thing in things
    ]
    x, y = (
        (min(low for low, _ in side) + max(high for _, high in side)) / 2
        for side in (edges[: len(things)], edges[len(things) :])
    )
    top = max(thing.position[2] + thing.height for thing in things)
    height = 0.45 * top
    reach = max(
        math.hypot(
            math.hypot(thing.position[0] - x, thing.position[1] - y) + thing.radius,
            abs(thing.position[2] + thing.height / 2 - height) + thing.height / 2,
        )
        for thing in things
    )
    azimuth = rng.uniform(0, 2 * math.pi)
    elevation = math.radians(between(rng, distribution.elevation))
    distance = between(rng, distribution.room) * reach / math.sin(math.radians(FIELD_OF_VIEW / 2))
    across = distance * math.cos(elevation)
    position = (
        x + across * math.cos(azimuth),
        y + across * math.sin(azimuth),
        height + distance * math.sin(elevation),
    )
    return Camera(position, (x, y, height), FIELD_OF_VIEW)


def draw_lights(rng: np.random.Generator, count: int, camera: Camera) -> tuple[Light, ...]:
    """A main lamp to the left or right behind the camera, and weaker ones opposite."""
    facing = math.atan2(camera.position[1] - camera.target[1], camera.position[0] - camera.target[0])
    side = 1 if rng.random() < 0.5 else -1
    lights = []
    for index in range(count):
        azimuth = facing + side * rng.uniform(0.5, 1.35) * (1 if index % 2 == 0 else -1)
        elevation = rng.uniform(0.65, 1.05)
        across = 9 * math.cos(elevation)
        warmth = rng.uniform(-0.06, 0.06)
        power = rng.uniform(0.8, 0.95) if index == 0 else rng.uniform(0.2, 0.35)
        position = (across * math.cos(azimuth), across * math.sin(azimuth), 9 * math.sin(elevation))
        colour = (power * (1 + warmth), power, power * (1 - warmth))
        lights.append(Light(position, float(rng.uniform(0.4, 0.9)), colour))
    return tuple(lights)


def draw_surroundings(rng: np.random.Generator, distribution: Distribution) -> tuple[Material, Material]:
    """Materials of the ground and of the background."""
    texture = str(pick(rng, distribution.grounds))
    main = jittered(rng, _GROUNDS[int(rng.integers(len(_GROUNDS)))], 0.05)
    shade = float(rng.uniform(0.14, 0.38))
    ground = Material(
        texture,
        main,
        mixed(main, (0.0, 0.0, 0.0), shade),
        float(rng.uniform(0.9, 1.6)) * (2.5 if texture == "photo" else 1.0),
        float(rng.random()),
        int(rng.integers(len(PHOTOGRAPHS))),
    )
    background = Material(
        str(pick(rng, distribution.backgrounds)),
        jittered(rng, _HORIZONS[int(rng.integers(len(_HORIZONS)))], 0.03),
        jittered(rng, _ZENITHS[int(rng.integers(len(_ZENITHS)))], 0.05),
        14.0,
        float(rng.random()),
        int(rng.integers(len(PHOTOGRAPHS))),
    )
    return ground, background


def furnish(
    rng: np.random.Generator,
    distribution: Distribution,
    things: tuple[Thing, ...],
    seen: Sequence[Thing] | None = None,
) -> Scene:
    """A scene of these things, with surroundings, lamps and a camera drawn for them.

    Args:
        rng: Source of every random choice.
        distribution: What to choose from.
        things: What stands in the scene.
        seen: The things that the camera must have in view; by default all.
    """
    camera = draw_camera(rng, distribution, things if seen is None else seen)
    ground, background = draw_surroundings(rng, distribution)
    lamps = int(rng.integers(distribution.lamps[0], distribution.lamps[1] + 1))
    return Scene(things, ground, background, draw_lights(rng, lamps, camera), camera=camera)


def draw_scene(rng: np.random.Generator, distribution: Distribution | None = None) -> Scene:
    """A scene drawn from the distribution; where its things find no room they are drawn again, and smaller.

    Example:
        >>> scene = draw_scene(np.random.default_rng(0), Distribution(classes=("sphere",), things=(3, 3)))
        >>> [thing.name for thing in scene.things]
        ['sphere', 'sphere', 'sphere']
    """
    distribution = distribution or Distribution()
    low, high = distribution.things
    count = int(rng.integers(low, high + 1))
    things: tuple[Thing, ...] = ()
    smaller = distribution
    while len(things) < low:
        drawn = [draw_thing(rng, smaller) for _ in range(count)]
        things = arrange(rng, drawn, distribution.spread, distribution.stacked)
        smaller = replace(smaller, scale=(0.93 * smaller.scale[0], 0.93 * smaller.scale[1]))
    return furnish(rng, distribution, things)


def draw_portrait(
    rng: np.random.Generator,
    distribution: Distribution,
    *,
    others: int = 0,
    main: Thing | None = None,
) -> Scene:
    """A scene with one large thing in the middle and small ones beside and behind it.

    Args:
        rng: Source of every random choice.
        distribution: What to choose from.
        others: Most small things.
        main: The large thing; drawn if not given.
    """
    main = main or draw_thing(rng, distribution, scale=1.0)
    extras = [
        draw_thing(rng, distribution, scale=float(rng.uniform(0.3, 0.45)))
        for _ in range(int(rng.integers(others + 1)))
    ]
    placed = arrange(rng, [replace(main, stands_on=-1), *extras], 1.3, 0.0, first=(0.0, 0.0))
    close = replace(distribution, room=(0.95, 1.2))
    return furnish(rng, close, placed, placed[:1])
