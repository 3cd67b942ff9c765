"""Procedural textures: how much of the second colour each point of a surface takes.

Patterns are filtered by the width of a pixel, so that they fade to their mean instead of flickering far away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

Scalars = Float[Tensor, "n"]


@dataclass(frozen=True)
class Place:
    """Where on its surface a texture is looked up.

    Args:
        coordinates: Texture coordinates, in periods.
        point: The same point in the frame of the part, in periods, for textures that fill space.
        level: Height on the part, from 0 at its foot to 1 at its top.
        phase: The number from 0 to 1 that tells apart two surfaces with the same texture.
        footprint: Width of a pixel, in periods.
    """

    coordinates: Float[Tensor, "2 n"]
    point: Float[Tensor, "3 n"]
    level: Scalars
    phase: Scalars
    footprint: Scalars


def _wave(x: Tensor, footprint: Scalars) -> Tensor:
    """A square wave of period 1 between 0 and 1, with edges as wide as a pixel."""
    triangle = ((x - 0.25).remainder(1) - 0.5).abs() - 0.25
    return (0.5 + triangle / footprint.clamp_min(0.02)).clamp(0, 1)


def _fade(footprint: Scalars) -> Scalars:
    return (1.6 - 1.6 * footprint).clamp(0, 1)


def plain(place: Place) -> Scalars:
    """One colour."""
    return torch.zeros_like(place.level)


def stripes(place: Place) -> Scalars:
    """Bands of two colours."""
    return _wave(place.coordinates[1] + place.phase, place.footprint)


def checks(place: Place) -> Scalars:
    """A chessboard."""
    u, v = _wave(place.coordinates, place.footprint)
    return u + v - 2 * u * v


def dots(place: Place) -> Scalars:
    """Round spots in rows."""
    cell = place.coordinates.remainder(1) - 0.5
    distance = cell.square().sum(0).sqrt()
    spot = (0.5 + (0.3 - distance) / place.footprint.clamp_min(0.04)).clamp(0, 1)
    return 0.28 + (spot - 0.28) * _fade(place.footprint)


def bricks(place: Place) -> Scalars:
    """Courses of bricks, shifted by half a brick; the second colour is the mortar."""
    u, v = place.coordinates
    course = (2 * v).floor()
    u = u + 0.5 * course.remainder(2)
    across = ((u.remainder(1) - 0.5).abs() - 0.44).clamp_min(0) * 2
    along = ((2 * v - course - 0.5).abs() - 0.38).clamp_min(0)
    mortar = (torch.maximum(across, along) * 12).clamp(0, 1)
    return 0.25 + (mortar - 0.25) * _fade(2 * place.footprint)


def gradient(place: Place) -> Scalars:
    """From one colour at the foot to the other at the top."""
    return place.level.clamp(0, 1)


@lru_cache(maxsize=4)
def _lattice(device: str) -> Tensor:
    return torch.rand(32 * 32 * 32, generator=torch.Generator().manual_seed(0)).to(device)


def value_noise(point: Float[Tensor, "3 n"]) -> Scalars:
    """Smooth noise with one feature a unit of length, values 0 to 1, repeating after 32 units."""
    values = _lattice(str(point.device))
    floor = point.floor()
    x, y, z = (point - floor) ** 2 * (3 - 2 * (point - floor))
    low = floor.long() & 31
    high = (low + 1) & 31
    planes = []
    for k in (low[2], high[2]):
        rows = [(k << 10) | (j << 5) for j in (low[1], high[1])]
        planes.append(
            values[rows[0] | low[0]]
            .lerp(values[rows[0] | high[0]], x)
            .lerp(values[rows[1] | low[0]].lerp(values[rows[1] | high[0]], x), y)
        )
    return planes[0].lerp(planes[1], z)


def noise(place: Place) -> Scalars:
    """Clouds in three octaves."""
    point = place.point * 2 + 31 * place.phase
    total = sum(value_noise(point * 2**octave) / 2**octave for octave in range(3)) / 1.75
    sharpened = ((total - 0.5) * 3 + 0.5).clamp(0, 1)
    return 0.5 + (sharpened - 0.5) * _fade(place.footprint)


def marble(place: Place) -> Scalars:
    """Veins bent by noise."""
    bend = value_noise(place.point * 1.5 + 31 * place.phase)
    veins = 0.5 + 0.5 * torch.sin(6.28 * (place.point[0] + place.point[2] + 2 * bend))
    return 0.5 + (veins.square() - 0.5) * _fade(place.footprint)


TEXTURES: dict[str, Callable[[Place], Scalars]] = {
    "plain": plain,
    "striped": stripes,
    "checked": checks,
    "dotted": dots,
    "brick": bricks,
    "gradient": gradient,
    "cloudy": noise,
    "marble": marble,
}
TEXTURE_NAMES = (*TEXTURES, "photo")
"""All textures in the order of their numbers; "photo" is looked up in `pinakes.scenes.photographs`."""
