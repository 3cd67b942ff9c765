"""Signed distances of the primitives in double precision: the closed forms that the ray caster is held to."""

import torch
from torch import Tensor


def _box(q: Tensor) -> Tensor:
    return q.clamp_min(0).norm(dim=0) + q.amax(0).clamp_max(0)


def _cone(p: Tensor, s: Tensor) -> Tensor:
    radius, half = s[0], s[2]
    across = p[:2].norm(dim=0)
    slant = (radius**2 + 4 * half**2).sqrt()
    side = ((across - radius) * 2 * half + (p[2] + half) * radius) / slant
    return torch.maximum(side, -half - p[2])


def _capsule(p: Tensor, s: Tensor) -> Tensor:
    z = p[2] - torch.maximum(torch.minimum(p[2], s[2]), -s[2])
    return torch.stack([p[0], p[1], z]).norm(dim=0) - s[0]


DISTANCE = {
    "sphere": lambda p, s: p.norm(dim=0) - s[0],
    "box": lambda p, s: _box(p.abs() - s),
    "cylinder": lambda p, s: _box(torch.stack([p[:2].norm(dim=0) - s[0], p[2].abs() - s[2]])),
    "cone": _cone,
    "torus": lambda p, s: torch.stack([p[:2].norm(dim=0) - s[0], p[2]]).norm(dim=0) - s[1],
    "capsule": _capsule,
}
"""Distance of points (3, n) from each solid of size (3, 1): zero on its surface, negative inside."""

SIZES = {
    "sphere": (0.6, 0.0, 0.0),
    "box": (0.5, 0.3, 0.7),
    "cylinder": (0.4, 0.0, 0.6),
    "cone": (0.5, 0.0, 0.6),
    "torus": (0.5, 0.2, 0.0),
    "capsule": (0.3, 0.0, 0.5),
}
