"""What lies on the surface of each primitive: its normal and its texture coordinates.

Points and sizes are in the frame of the primitive, components first. Texture coordinates count periods of the
texture; around an axis a whole number of periods fits, so that no seam shows.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.scenes.primitives import Scalars, Vectors

Coordinates = Float[Tensor, "2 n"]


class Surface(NamedTuple):
    """The outward unit normal at a point, texture coordinates for a period given in scene units, and half the
    height of the primitive along its own z axis."""

    normal: Callable[[Vectors, Vectors], Vectors]
    coordinates: Callable[[Vectors, Vectors, Scalars], Coordinates]
    half_height: Callable[[Vectors], Scalars]


def _unit(v: Tensor) -> Tensor:
    return v / v.square().sum(0).sqrt().clamp_min(1e-9)


def _periods(length: Scalars, period: Scalars) -> Scalars:
    return (length / period).round().clamp_min(1)


def _turn(point: Vectors, radius: Scalars, period: Scalars) -> Scalars:
    angle = torch.atan2(point[1], point[0]) / (2 * math.pi)
    return (angle + 0.5) * _periods(2 * math.pi * radius, period)


def _sphere_normal(point: Vectors, size: Vectors) -> Vectors:
    return _unit(point)


def _sphere_coordinates(point: Vectors, size: Vectors, period: Scalars) -> Coordinates:
    latitude = torch.asin((point[2] / size[0]).clamp(-1, 1)) / math.pi + 0.5
    return torch.stack([_turn(point, size[0], period), latitude * _periods(math.pi * size[0], period)])


def _box_face(point: Vectors, size: Vectors) -> Tensor:
    return (point.abs() / size).argmax(0)


def _box_normal(point: Vectors, size: Vectors) -> Vectors:
    face = torch.nn.functional.one_hot(_box_face(point, size), 3).T
    return face * point.sign()


def _box_coordinates(point: Vectors, size: Vectors, period: Scalars) -> Coordinates:
    face = _box_face(point, size)
    u = torch.where(face == 0, point[1], point[0])
    v = torch.where(face == 2, point[1], point[2])
    return torch.stack([u, v]) / period


def _upright(point: Vectors) -> Vectors:
    return torch.stack([point[0], point[1], torch.zeros_like(point[0])])


def _cap(point: Vectors) -> Vectors:
    zero = torch.zeros_like(point[2])
    return torch.stack([zero, zero, torch.where(point[2] < 0, -1.0, 1.0).to(zero)])


def _cylinder_on_cap(point: Vectors, size: Vectors) -> Tensor:
    return point[2].abs() - size[2] > point[:2].square().sum(0).sqrt() - size[0]


def _cylinder_normal(point: Vectors, size: Vectors) -> Vectors:
    return torch.where(_cylinder_on_cap(point, size), _cap(point), _unit(_upright(point)))


def _wrapped(point: Vectors, size: Vectors, period: Scalars, on_cap: Tensor) -> Coordinates:
    side = torch.stack([_turn(point, size[0], period), point[2] / period])
    return torch.where(on_cap, point[:2] / period, side)


def _cylinder_coordinates(point: Vectors, size: Vectors, period: Scalars) -> Coordinates:
    return _wrapped(point, size, period, _cylinder_on_cap(point, size))


def _cone_on_base(point: Vectors, size: Vectors) -> Tensor:
    across = point[:2].square().sum(0).sqrt() - size[0] * (size[2] - point[2]) / (2 * size[2])
    slant = 2 * size[2] / (size[0].square() + 4 * size[2].square()).sqrt()
    return -point[2] - size[2] > across * slant


def _cone_normal(point: Vectors, size: Vectors) -> Vectors:
    outward = _unit(_upright(point)) * (2 * size[2])
    outward[2] = size[0]
    return torch.where(_cone_on_base(point, size), _cap(point), _unit(outward))


def _cone_coordinates(point: Vectors, size: Vectors, period: Scalars) -> Coordinates:
    return _wrapped(point, size, period, _cone_on_base(point, size))


def _torus_normal(point: Vectors, size: Vectors) -> Vectors:
    return _unit(point - _unit(_upright(point)) * size[0])


def _torus_coordinates(point: Vectors, size: Vectors, period: Scalars) -> Coordinates:
    outward = point[:2].square().sum(0).sqrt() - size[0]
    around_tube = torch.atan2(point[2], outward) / (2 * math.pi) + 0.5
    return torch.stack([_turn(point, size[0], period), around_tube * _periods(2 * math.pi * size[1], period)])


def _capsule_normal(point: Vectors, size: Vectors) -> Vectors:
    offset = _upright(point)
    offset[2] = point[2] - torch.maximum(torch.minimum(point[2], size[2]), -size[2])
    return _unit(offset)


def _capsule_coordinates(point: Vectors, size: Vectors, period: Scalars) -> Coordinates:
    return torch.stack([_turn(point, size[0], period), point[2] / period])


SURFACES: dict[str, Surface] = {
    "sphere": Surface(_sphere_normal, _sphere_coordinates, lambda size: size[0]),
    "box": Surface(_box_normal, _box_coordinates, lambda size: size[2]),
    "cylinder": Surface(_cylinder_normal, _cylinder_coordinates, lambda size: size[2]),
    "cone": Surface(_cone_normal, _cone_coordinates, lambda size: size[2]),
    "torus": Surface(_torus_normal, _torus_coordinates, lambda size: size[1]),
    "capsule": Surface(_capsule_normal, _capsule_coordinates, lambda size: size[0] + size[2]),
}
