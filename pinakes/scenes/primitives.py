"""The six solids that every object is made of: where a ray first meets each of them.

Each solid lies in its own frame, centred at the origin, its axis along z, with three numbers for its size:

========  ===================================  =====================
sphere    radius                               (radius, -, -)
box       half extents                         (x, y, z)
cylinder  radius and half height               (radius, -, half)
cone      base radius at -half, apex at +half  (radius, -, half)
torus     ring radius and tube radius          (ring, tube, -)
capsule   radius and half length of its axis   (radius, -, half)
========  ===================================  =====================

Rays come as components first, (3, n), with the origin moved along the ray to the point nearest to the centre
of the solid: all quantities are then of the order of its size and single precision is enough. `start` is the
parameter at which the ray truly starts.

Source: sphere, cylinder and cone from Glassner (ed.), An Introduction to Ray Tracing, 1989, chapter 2; box by
slabs from Kay and Kajiya, SIGGRAPH 1986; capsule as the hull of a cylinder and two spheres; torus by
Descartes' factorisation of the quartic and the resolvent cubic, Schwarze, Graphics Gems, 1990.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Vectors = Float[Tensor, "3 n"]
Scalars = Float[Tensor, "n"]

INFINITY = float("inf")


class Primitive(NamedTuple):
    """A solid: where a ray meets it, the radius of the sphere around it, and whether it is convex."""

    hit: Callable[[Vectors, Vectors, Vectors, Scalars], Scalars]
    bound: Callable[[Float[Tensor, "n 3"]], Scalars]
    convex: bool = True


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _first(near: Scalars, far: Scalars, start: Scalars) -> Scalars:
    """The first boundary after `start` of a ray that is inside a convex solid from `near` to `far`."""
    distance = torch.where(near > start, near, far)
    return distance.masked_fill((near > far) | (distance <= start), INFINITY)


def hit_sphere(origin: Vectors, direction: Vectors, size: Vectors, start: Scalars) -> Scalars:
    """Distance along the ray to a sphere, infinity if missed."""
    half_chord = (size[0].square() - _dot(origin, origin)).sqrt()
    half_chord = half_chord.nan_to_num(nan=-1.0)
    return _first(-half_chord, half_chord, start)


def _safe(x: Tensor, smallest: float = 1e-9) -> Tensor:
    return torch.where(x.abs() < smallest, smallest, x)


def hit_box(origin: Vectors, direction: Vectors, size: Vectors, start: Scalars) -> Scalars:
    """Distance along the ray to a box, infinity if missed."""
    inverse = 1 / _safe(direction)
    middle = -origin * inverse
    reach = size * inverse.abs()
    return _first((middle - reach).amax(0), (middle + reach).amin(0), start)


def _slab(origin: Scalars, direction: Scalars, half: Scalars) -> tuple[Scalars, Scalars]:
    inverse = 1 / _safe(direction)
    middle, reach = -origin * inverse, half * inverse.abs()
    return middle - reach, middle + reach


def _tube(origin: Vectors, direction: Vectors, size: Vectors) -> tuple[Scalars, Scalars]:
    """Entry into and exit from an upright tube of radius size[0] cut off at heights -size[2] and size[2]."""
    a = (direction[0].square() + direction[1].square()).clamp_min(1e-12)
    b = origin[0] * direction[0] + origin[1] * direction[1]
    c = origin[0].square() + origin[1].square() - size[0].square()
    root = (b.square() - a * c).sqrt()
    low, high = _slab(origin[2], direction[2], size[2])
    near = torch.maximum((-b - root) / a, low)
    far = torch.minimum((-b + root) / a, high)
    missed = root.isnan() | (near > far)
    return near.masked_fill(missed, INFINITY), far.masked_fill(missed, -INFINITY)


def hit_cylinder(origin: Vectors, direction: Vectors, size: Vectors, start: Scalars) -> Scalars:
    """Distance along the ray to a closed cylinder, infinity if missed."""
    return _first(*_tube(origin, direction, size), start)


def hit_cone(origin: Vectors, direction: Vectors, size: Vectors, start: Scalars) -> Scalars:
    """Distance along the ray to a closed cone, infinity if missed."""
    radius, half = size[0], size[2]
    slope = (radius / (2 * half)).square()
    drop = half - origin[2]
    a = direction[0].square() + direction[1].square() - slope * direction[2].square()
    b = origin[0] * direction[0] + origin[1] * direction[1] + slope * drop * direction[2]
    c = origin[0].square() + origin[1].square() - slope * drop.square()
    root = (b.square() - a * c).sqrt()
    q = -(b + torch.where(b < 0, -root, root))
    base = (-half - origin[2]) / _safe(direction[2])
    candidates = torch.stack([q / _safe(a), c / _safe(q), base])
    height = origin[2] + candidates * direction[2]
    valid = height.abs() <= half
    x = origin[0] + base * direction[0]
    y = origin[1] + base * direction[1]
    valid[2] = x.square() + y.square() <= radius.square()
    near = torch.where(valid, candidates, INFINITY).amin(0)
    far = torch.where(valid, candidates, -INFINITY).amax(0)
    return _first(near, far, start)


def hit_capsule(origin: Vectors, direction: Vectors, size: Vectors, start: Scalars) -> Scalars:
    """Distance along the ray to a capsule, infinity if missed."""
    radius, half = size[0], size[2]
    near, far = _tube(origin, direction, size)
    along, square = _dot(origin, direction), _dot(origin, origin)
    for end in (half, -half):
        b = along - end * direction[2]
        c = square - 2 * end * origin[2] + end.square() - radius.square()
        root = (b.square() - c).sqrt()
        missed = root.isnan()
        near = torch.minimum(near, (-b - root).masked_fill(missed, INFINITY))
        far = torch.maximum(far, (-b + root).masked_fill(missed, -INFINITY))
    return _first(near, far, start)


def _largest_root_of_cubic(b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The largest real root of y³ + b y² + c y + d, in double precision, polished by Newton's method."""
    p = (c - b.square() / 3) / 3
    q = (2 * b.pow(3) / 27 - b * c / 3 + d) / 2
    discriminant = q.square() + p.pow(3)
    root = discriminant.clamp_min(0).sqrt()
    big = torch.where(q > 0, -q - root, -q + root)
    cube_root = big.sign() * big.abs().pow(1 / 3)
    single = cube_root - p / _safe(cube_root, 1e-30)
    radius = (-p).clamp_min(0).sqrt()
    cosine = (-q / radius.pow(3).clamp_min(1e-30)).clamp(-1, 1)
    triple = 2 * radius * (torch.acos(cosine) / 3).cos()
    y = torch.where(discriminant > 0, single, triple) - b / 3
    for _ in range(2):
        slope = (3 * y + 2 * b) * y + c
        step = (((y + b) * y + c) * y + d) / _safe(slope, 1e-12)
        y = y - torch.where(step.abs() < 0.1 * y.abs() + 1e-6, step, 0.0)
    return y


def hit_torus(origin: Vectors, direction: Vectors, size: Vectors, start: Scalars) -> Scalars:
    """Distance along the ray to a torus, infinity if missed.

    With the origin nearest to the centre the quartic has no cubic term: t⁴ + A t² + B t + C. It factors into
    (t² + s t + u)(t² − s t + v), where s² is the largest root of y³ + 2A y² + (A² − 4C) y − B².
    """
    ring = size[0].double()
    o, d = origin.double() / ring, direction.double()
    tube = (size[1].double() / ring).square()
    flat_dd = d[0].square() + d[1].square()
    flat_od = o[0] * d[0] + o[1] * d[1]
    flat_oo = o[0].square() + o[1].square()
    k = _dot(o, o) + 1 - tube
    a = 2 * k - 4 * flat_dd
    b = -8 * flat_od
    c = k.square() - 4 * flat_oo
    y = _largest_root_of_cubic(2 * a, a.square() - 4 * c, -b.square()).clamp_min(0)
    s = y.sqrt()
    total = a + y
    difference = torch.where(b < 0, -1.0, 1.0) * (total.square() - 4 * c).clamp_min(0).sqrt()
    left = (y - 2 * (total - difference)).sqrt()
    right = (y - 2 * (total + difference)).sqrt()
    roots = torch.stack([-s - left, -s + left, s - right, s + right]) / 2
    roots = torch.where(roots.isnan() | (roots <= start.double() / ring), INFINITY, roots)
    t = roots.amin(0)
    missed = t.isinf()
    t = t.masked_fill(missed, 0.0)
    for _ in range(2):
        value = ((t.square() + a) * t + b) * t + c
        slope = (4 * t.square() + 2 * a) * t + b
        t = t - (value / _safe(slope, 1e-9)).clamp(-1e-3, 1e-3)
    return (t * ring).to(origin.dtype).masked_fill(missed, INFINITY)


PRIMITIVES: dict[str, Primitive] = {
    "sphere": Primitive(hit_sphere, lambda size: size[:, 0]),
    "box": Primitive(hit_box, lambda size: size.norm(dim=1)),
    "cylinder": Primitive(hit_cylinder, lambda size: size[:, ::2].norm(dim=1)),
    "cone": Primitive(hit_cone, lambda size: size[:, ::2].norm(dim=1)),
    "torus": Primitive(hit_torus, lambda size: size[:, 0] + size[:, 1], convex=False),
    "capsule": Primitive(hit_capsule, lambda size: size[:, 0] + size[:, 2]),
}
KINDS = tuple(PRIMITIVES)
"""The primitives in the order of their integer kinds."""
