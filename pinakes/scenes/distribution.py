"""Which scenes there are: a distribution whose every choice can be narrowed, and things drawn from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pinakes.errors import UserError
from pinakes.scenes.forms import CLASSES, COLOURS, FORMS, scaled
from pinakes.scenes.photographs import PHOTOGRAPHS
from pinakes.scenes.world import Material, Thing, Triple

Range = tuple[float, float]
Source = Literal["procedural", "photo", "both"]
"""Where textures come from: made by rule, cut from photographs, or either."""


@dataclass(frozen=True)
class Distribution:
    """The choices from which scenes are drawn, each uniform over what is given here.

    Args:
        classes: Classes of things.
        colours: Colours of things.
        textures: Textures of things.
        grounds: Textures of the ground.
        backgrounds: Textures of the background.
        things: Fewest and most things in a scene.
        scale: Smallest and largest scale of a thing.
        spread: Radius of the disc in which things stand, in scene units.
        stacked: Probability that a thing is put on another one with a flat top, if there is one.
        room: Distance of the camera in multiples of that from which the things just fill the picture.
        elevation: Elevation of the camera above the ground, in degrees.
        lamps: Number of lamps.
        glossy: Probability that a thing has a highlight.
        speed: Fastest movement of a thing, in scene units a frame.
    """

    classes: tuple[str, ...] = CLASSES
    colours: tuple[str, ...] = tuple(COLOURS)
    textures: tuple[str, ...] = (
        "plain",
        "plain",
        "striped",
        "checked",
        "dotted",
        "gradient",
        "marble",
        "cloudy",
    )
    grounds: tuple[str, ...] = ("plain", "plain", "checked", "brick", "cloudy", "striped")
    backgrounds: tuple[str, ...] = ("gradient",)
    things: tuple[int, int] = (4, 6)
    scale: Range = (0.6, 1.0)
    spread: float = 1.75
    stacked: float = 0.25
    room: Range = (0.88, 1.04)
    elevation: Range = (18.0, 38.0)
    lamps: tuple[int, int] = (1, 1)
    glossy: float = 0.5
    speed: float = 0.0

    def textured_by(self, source: Source) -> "Distribution":
        """The same with textures that are "procedural", each a "photo"graph, or "both" in turn."""
        if source == "procedural":
            return self
        if source == "photo":
            return replace(self, textures=("photo",), grounds=("photo",), backgrounds=("photo",))
        return replace(
            self,
            textures=(*self.textures, "photo", "photo", "photo", "photo"),
            grounds=(*self.grounds, "photo", "photo", "photo"),
            backgrounds=(*self.backgrounds, "photo"),
        )

    def __post_init__(self) -> None:
        low, high = self.things
        if not 1 <= low <= high:
            raise UserError(f"things: expected 1 <= fewest <= most, got {low} to {high}")
        room = int(1.6 * self.spread**2 / (0.55 * self.scale[0]) ** 2 / 2)
        if high > room:
            raise UserError(
                f"things: no room for {high} on a disc of radius {self.spread:g}; give at most {room}"
            )


def pick(rng: np.random.Generator, choices: tuple) -> object:
    """One of several, uniformly."""
    return choices[int(rng.integers(len(choices)))]


def between(rng: np.random.Generator, ends: Range) -> float:
    """A number between two, uniformly."""
    return float(rng.uniform(*ends))


def jittered(rng: np.random.Generator, colour: Triple, amount: float) -> Triple:
    """A colour near another."""
    r, g, b = np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 0.03, 0.97).tolist()
    return r, g, b


def mixed(first: Triple, second: Triple, share: float) -> Triple:
    """A colour between two; `share` is that of the second."""
    r, g, b = (x + share * (y - x) for x, y in zip(first, second, strict=True))
    return r, g, b


def draw_material(
    rng: np.random.Generator, colour: Triple, texture: str, *, period: float = 0.34, glossy: float = 0.0
) -> Material:
    """A material of about this colour; the second colour of its pattern is a darker or lighter one."""
    main = jittered(rng, colour, 0.04)
    brightness = sum(main) / 3
    toward = (0.96, 0.95, 0.92) if brightness < 0.5 else (0.12, 0.11, 0.14)
    second = mixed(main, toward, float(rng.uniform(0.55, 0.8)))
    shiny = rng.random() < glossy
    return Material(
        texture,
        main,
        second,
        period * float(rng.uniform(0.85, 1.25)),
        float(rng.random()),
        int(rng.integers(len(PHOTOGRAPHS))),
        float(rng.uniform(0.25, 0.6)) if shiny else 0.0,
        float(rng.uniform(15, 70)),
    )


def draw_thing(
    rng: np.random.Generator,
    distribution: Distribution,
    *,
    name: str | None = None,
    colour: str | None = None,
    texture: str | None = None,
    scale: float | None = None,
) -> Thing:
    """A thing at the origin, turned at random; what is not given is drawn.

    Its height and the radius of its flat top follow from its form.
    """
    name = name or str(pick(rng, distribution.classes))
    colour = colour or str(pick(rng, distribution.colours))
    texture = texture or str(pick(rng, distribution.textures))
    scale = between(rng, distribution.scale) if scale is None else scale
    main = draw_material(rng, COLOURS[colour], texture, period=0.4 * scale, glossy=distribution.glossy)
    others = tuple(c for c in COLOURS if c != colour)
    accent = draw_material(rng, COLOURS[str(pick(rng, others))], "plain", glossy=distribution.glossy)
    form = FORMS[name](rng, main, accent)
    middle = sum(distribution.scale) / 2
    angle, heading = rng.uniform(0, 2 * math.pi, 2).tolist()
    speed = rng.uniform(0.4, 1) * distribution.speed
    return Thing(
        name,
        CLASSES.index(name),
        scaled(form.parts, scale),
        turn=(0.0, 0.0, angle),
        velocity=(speed * math.cos(heading), speed * math.sin(heading), 0.0),
        spin=float(rng.uniform(-2, 2)) * distribution.speed,
        radius=form.radius * scale,
        height=form.height * scale,
        top=form.top * scale,
        colour=colour,
        texture=texture,
        scale="small" if scale < middle else "large",
    )


def arrange(
    rng: np.random.Generator,
    things: Sequence[Thing],
    spread: float,
    stacked: float,
    first: tuple[float, float] | None = None,
) -> tuple[Thing, ...]:
    """Puts things on the ground, none into another, and some on top of others; leaves out what finds no place.

    Args:
        rng: Source of every random choice.
        things: The things, in the order in which they find their places.
        spread: Radius of the disc in which they stand.
        stacked: Probability that a thing is put on another one that can carry it.
        first: Where the first one stands; by default anywhere.
    """
    placed: list[Thing] = []
    if first is not None:
        placed.append(replace(things[0], position=(*first, 0.0)))
        things = things[1:]
    carrying: set[int] = set()
    for thing in things:
        carriers = [
            i
            for i, other in enumerate(placed)
            if other.top * 1.1 > thing.radius and i not in carrying and other.stands_on < 0
        ]
        if carriers and rng.random() < stacked:
            below = int(rng.integers(len(carriers)))
            carrier = placed[carriers[below]]
            carrying.add(carriers[below])
            x, y, z = carrier.position
            placed.append(
                replace(
                    thing,
                    position=(x, y, z + carrier.height),
                    stands_on=carriers[below],
                    velocity=carrier.velocity,
                    spin=carrier.spin,
                )
            )
            continue
        for _ in range(40):
            radius, angle = spread * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
            x, y = radius * math.cos(angle), radius * math.sin(angle)
            if all(
                math.hypot(x - other.position[0], y - other.position[1]) > thing.radius + other.radius + 0.03
                for other in placed
            ):
                placed.append(replace(thing, position=(x, y, 0.0)))
                break
    return tuple(placed)
