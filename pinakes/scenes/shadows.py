"""How much of a lamp each point sees: soft-edged shadows of lamps that are balls, and the dark near things."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.scenes.camera import Rays
from pinakes.scenes.tracer import CLEARANCE, Solids, columns, meet, pairs, slices

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


def _disc(samples: int, device: torch.device) -> Float[Tensor, "2 sample"]:
    """Points spread evenly over the unit disc (Vogel's spiral)."""
    index = torch.arange(samples, device=device, dtype=torch.float32)
    radius, angle = ((index + 0.5) / samples).sqrt(), index * _GOLDEN_ANGLE
    return torch.stack([radius * angle.cos(), radius * angle.sin()])


def visible_share(
    solids: Solids,
    points: Float[Tensor, "3 scene ray"],
    normals: Float[Tensor, "3 scene ray"],
    surface: Int[Tensor, "scene ray"],
    lamp: Float[Tensor, "scene 3"],
    radius: Float[Tensor, "scene"],
    samples: int,
) -> Float[Tensor, "scene ray"]:
    """Share of a lamp that is seen from each point, from 0 in full shadow to 1.

    Args:
        solids: The parts of the scenes.
        points: Points on surfaces.
        normals: Normals there; points that face away from the lamp are not looked at and get 1.
        surface: The surface of each point, as `trace` gives it; a convex part does not shade itself.
        lamp: Centre of the lamp.
        radius: Radius of the lamp.
        samples: Points on the disc of the lamp that are looked at; 1 gives hard shadows.
    """
    spots = _spots(lamp, radius, samples)
    share = torch.empty_like(points[0])
    offset = points + CLEARANCE * normals
    towards = lamp.T[:, :, None] - offset
    reach = towards.square().sum(0).sqrt()
    rays = Rays(offset, towards / reach)
    lit = ((rays.direction * normals).sum(0) > 0) & (surface > 0)
    for cut in slices(rays, solids.parts):
        some = Rays(rays.origin[..., cut].contiguous(), rays.direction[..., cut].contiguous())
        mask = solids.candidates(some, radius[:, None], reach[:, cut])
        mask &= lit[:, None, cut]
        blocked = _blocked(solids, *pairs(mask), some.origin, surface[:, cut] - 2, spots)
        share[:, cut] = 1 - blocked.float().mean(0)
    return share


def _spots(
    lamp: Float[Tensor, "scene 3"], radius: Float[Tensor, "scene"], samples: int
) -> Float[Tensor, "3 sample scene"]:
    """Points on the disc that a lamp shows to the middle of the world."""
    forward = torch.nn.functional.normalize(lamp, dim=-1)
    side = torch.linalg.cross(forward, lamp.new_tensor([0.0, 0.0, 1.0]).expand_as(forward) + 1e-3)
    side = torch.nn.functional.normalize(side, dim=-1)
    axes = torch.stack([side, torch.linalg.cross(forward, side)], dim=-1) * radius[:, None, None]
    disc = _disc(samples, lamp.device) if samples > 1 else lamp.new_zeros(2, 1)
    return (lamp[:, :, None] + axes @ disc).permute(1, 2, 0).contiguous()


def _blocked(
    solids: Solids,
    part: Int[Tensor, "n"],
    ray: Int[Tensor, "n"],
    points: Float[Tensor, "3 scene ray"],
    own: Int[Tensor, "scene ray"],
    spots: Float[Tensor, "3 sample scene"],
) -> Tensor:
    _, scenes, count = points.shape
    samples = spots.shape[1]
    blocked = torch.zeros(samples, scenes * count, dtype=torch.bool, device=points.device)
    itself = (own.flatten()[ray] == part % solids.parts) & solids.convex[part]
    kind = solids.kind[part].masked_fill(itself, -1)
    origin = points.flatten(1)
    every = torch.arange(scenes * solids.parts, device=points.device)
    owner = torch.div(every, solids.parts, rounding_mode="floor")
    local_spots = torch.stack(
        [solids.local(every, spot[:, owner], point=True) for spot in spots.unbind(1)], dim=1
    )
    for k in solids.kinds:
        chosen = (kind == k).nonzero()[:, 0]
        p, r = part[chosen], ray[chosen]
        start = solids.local(p, columns(origin, r), point=True)[:, None]
        towards = columns(local_spots.flatten(0, 1), p).unflatten(0, (3, samples)) - start
        reach = towards.square().sum(0).sqrt()
        direction = (towards / reach).flatten(1)
        size = solids.sizes(p)[:, None]
        t = meet(k, start.expand_as(towards).flatten(1), direction, size.expand_as(towards).flatten(1))
        t = t.view_as(reach)
        sample, hit = ((t > 0) & (t < reach)).nonzero(as_tuple=True)
        blocked[sample, r[hit]] = True
    return blocked.view(samples, scenes, count)


def openness(
    solids: Solids, points: Float[Tensor, "3 scene ray"], normals: Float[Tensor, "3 scene ray"]
) -> Float[Tensor, "scene ray"]:
    """Share of the sky above a surface that nearby parts leave free, each taken for a ball.

    Source: occlusion by a ball above the horizon, the solid angle weighted by the cosine, r²/d² cos; Quilez,
    "Sphere ambient occlusion".
    """
    radius = (solids.bound.clamp_min(0) * 0.62)[..., None]
    share = torch.empty_like(points[0])
    for cut in slices(Rays(points, normals), solids.parts):
        point, normal = points[..., cut].transpose(0, 1), normals[..., cut].transpose(0, 1)
        cosine = (solids.centre @ normal).sub_((point * normal).sum(1, keepdim=True)).clamp_min_(0)
        square = (solids.centre @ point).mul_(-2)
        square += solids.centre.square().sum(-1, keepdim=True)
        square += point.square().sum(1, keepdim=True)
        square = torch.maximum(square, radius.square() + 1e-6)
        shade = cosine.mul_(square.rsqrt()).mul_(radius.square()).div_(square)
        share[:, cut] = (1 - shade.sum(1)).clamp_min(0.15)
    return share
