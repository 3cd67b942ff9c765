"""What surfaces look like where rays meet them: normal, texture coordinates, colour, blemishes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.scenes.batch import MARK_KINDS, SceneBatch
from pinakes.scenes.photographs import pyramid
from pinakes.scenes.primitives import KINDS
from pinakes.scenes.surfaces import SURFACES
from pinakes.scenes.textures import TEXTURE_NAMES, TEXTURES, Place, value_noise
from pinakes.scenes.tracer import Hits, Solids, columns
from pinakes.scenes.world import DOME_RADIUS


@dataclass(frozen=True)
class Points:
    """Where rays ended: place, outward unit normal and surface of each, components first."""

    position: Float[Tensor, "3 scene ray"]
    normal: Float[Tensor, "3 scene ray"]
    surface: Int[Tensor, "scene ray"]


@dataclass(frozen=True)
class Texels:
    """Texture coordinates in periods, the point in periods, and the height on the part from 0 to 1."""

    coordinates: Float[Tensor, "2 scene ray"]
    point: Float[Tensor, "3 scene ray"]
    level: Float[Tensor, "scene ray"]


def by_surface(values: Tensor, surface: Int[Tensor, "scene ray"]) -> Tensor:
    """Values of the surfaces of a batch, (scene, surface, ...), at each ray: (..., scene, ray)."""
    scenes, surfaces = values.shape[:2]
    index = surface + surfaces * torch.arange(scenes, device=surface.device)[:, None]
    rows = values.flatten(0, 1).reshape(scenes * surfaces, -1).T
    return columns(rows, index.flatten()).view(*values.shape[2:], *surface.shape)


def _by_kind(solids: Solids, surface: Int[Tensor, "scene ray"]) -> list[tuple[str, Tensor, Tensor]]:
    """For each kind of primitive that is seen: its name, the rays that see it, and the parts they see."""
    scene = torch.arange(len(surface), device=surface.device)[:, None]
    part = (surface - 2 + solids.parts * scene).flatten()
    seen = (surface.flatten() >= 2).nonzero()[:, 0]
    part = part[seen]
    kind = solids.kind[part]
    groups = []
    for k in solids.kinds:
        chosen = (kind == k).nonzero()[:, 0]
        if len(chosen):
            groups.append((KINDS[k], seen[chosen], part[chosen]))
    return groups


def surface_points(solids: Solids, position: Float[Tensor, "3 scene ray"], hits: Hits) -> Points:
    """Normals of the surfaces at the points where rays met them."""
    surface = hits.surface
    normal = -position / DOME_RADIUS
    upwards = normal.new_tensor([0.0, 0.0, 1.0])[:, None, None]
    normal = torch.where(surface == 1, upwards, normal)
    flat, where = normal.flatten(1), position.flatten(1)
    for name, ray, part in _by_kind(solids, surface):
        frame = columns(solids.table, part)
        local = solids.local(part, columns(where, ray), point=True)
        n = SURFACES[name].normal(local, frame[12:15])
        flat[:, ray] = torch.stack(
            [frame[j] * n[0] + frame[3 + j] * n[1] + frame[6 + j] * n[2] for j in range(3)]
        )
    return Points(position, flat.view_as(normal), surface)


def texels(scenes: SceneBatch, solids: Solids, points: Points) -> Texels:
    """Texture coordinates of points on surfaces."""
    surface, position = points.surface, points.position
    period = by_surface(scenes.period, surface)
    azimuth = torch.atan2(position[1], position[0]) * DOME_RADIUS
    on_ground = surface == 1
    u = torch.where(on_ground, position[0], azimuth) / period
    v = torch.where(on_ground, position[1], position[2]) / period
    coordinates = torch.stack([u, v]).flatten(1)
    point = (position / period).flatten(1)
    radius = position[:2].square().sum(0).sqrt()
    level = torch.where(on_ground, radius / 8, position[2] * (2.2 / DOME_RADIUS)).flatten()
    where, periods = position.flatten(1), period.flatten()
    for name, ray, part in _by_kind(solids, surface):
        size = solids.sizes(part)
        local = solids.local(part, columns(where, ray), point=True)
        coordinates[:, ray] = SURFACES[name].coordinates(local, size, periods[ray])
        point[:, ray] = local / periods[ray]
        level[ray] = 0.5 + 0.5 * local[2] / SURFACES[name].half_height(size)
    return Texels(coordinates.view(2, *surface.shape), point.view_as(position), level.view_as(surface))


def albedo(
    scenes: SceneBatch, points: Points, place: Texels, footprint: Float[Tensor, "scene ray"]
) -> Float[Tensor, "3 scene ray"]:
    """Linear colours of surfaces.

    Args:
        scenes: The scenes.
        points: Points on their surfaces.
        place: Texture coordinates of the points.
        footprint: Width of a pixel at each point, in scene units.
    """
    surface = points.surface
    texture = by_surface(scenes.texture, surface).flatten()
    phase = by_surface(scenes.phase, surface).flatten()
    blur = (footprint / by_surface(scenes.period, surface)).flatten()
    share = torch.zeros_like(blur)
    for index in scenes.texture.unique().tolist():
        name = TEXTURE_NAMES[index]
        if name in ("plain", "photo"):
            continue
        chosen = (texture == index).nonzero()[:, 0]
        here = Place(
            columns(place.coordinates.flatten(1), chosen),
            columns(place.point.flatten(1), chosen),
            place.level.flatten()[chosen],
            phase[chosen],
            blur[chosen],
        )
        share[chosen] = TEXTURES[name](here)
    colour = by_surface(scenes.colour, surface).flatten(1)
    colour = colour.lerp(by_surface(scenes.second, surface).flatten(1), share)
    chosen = (texture == TEXTURE_NAMES.index("photo")).nonzero()[:, 0]
    if len(chosen):
        photo = by_surface(scenes.photo, surface).flatten()[chosen]
        shift = torch.stack([phase[chosen] * 7, phase[chosen] * 13])
        coordinates = columns(place.coordinates.flatten(1), chosen) + shift
        colour[:, chosen] = pyramid(str(colour.device)).look_up(photo, coordinates, blur[chosen])
    return colour.view_as(points.position)


@dataclass(frozen=True)
class Blemishes:
    """What marks do to a surface.

    Args:
        coverage: How deep in a mark each point lies, from 0 outside to 1.
        tint: How far its colour takes the place of the surface's.
        colour: That colour, linear.
        normal: The bent normal.
    """

    coverage: Float[Tensor, "scene ray"]
    tint: Float[Tensor, "scene ray"]
    colour: Float[Tensor, "3 scene ray"]
    normal: Float[Tensor, "3 scene ray"]


def blemishes(scenes: SceneBatch, points: Points) -> Blemishes:
    """Scratches, dents and stains at points on surfaces."""
    instance = scenes.instance(points.surface)
    coverage = torch.zeros_like(points.position[0])
    tint, colour, normal = coverage.clone(), torch.zeros_like(points.position), points.normal
    scene = torch.arange(len(scenes), device=instance.device)
    for m in range(scenes.mark_kind.shape[1]):
        kind, thing = scenes.mark_kind[:, m], scenes.mark_thing[:, m]
        rotation = scenes.thing_rotation[scene, thing]
        offset = points.position - scenes.thing_position[scene, thing].T[:, :, None]
        local = torch.stack([(rotation[:, :, i].T[:, :, None] * offset).sum(0) for i in range(3)])
        start, end = scenes.mark_ends[:, m].permute(1, 2, 0)[..., None]
        axis = end - start
        along = ((local - start) * axis).sum(0) / axis.square().sum(0).clamp_min(1e-9)
        away = local - start - along.clamp(0, 1) * axis
        distance = away.square().sum(0).sqrt()
        radius = scenes.mark_radius[:, m, None]
        seed = 31 * scenes.mark_phase[:, m, None]
        rough = value_noise((local * 7 + seed).flatten(1)).view_as(distance) - 0.5
        ragged = torch.where(
            (kind == MARK_KINDS.index("stain"))[:, None], distance + radius * rough * 1.2, distance
        )
        inside = (instance == thing[:, None] + 1) & (kind >= 0)[:, None]
        depth = (1 - ragged / radius).clamp(0, 1) * inside
        is_dent = (kind == MARK_KINDS.index("dent"))[:, None]
        coverage = torch.maximum(coverage, depth)
        strength = (depth * 3).clamp(0, 0.9) * ~is_dent
        tint = torch.where(strength > 0, strength, tint)
        colour = torch.where(strength > 0, scenes.mark_colour[:, m].T[:, :, None], colour)
        inwards = torch.stack([(rotation[:, i, :].T[:, :, None] * away).sum(0) for i in range(3)])
        ratio = (distance / radius).clamp(0, 1)
        bend = 2.6 * ratio * (1 - ratio.square()) / distance.clamp_min(1e-6) * (inside & is_dent)
        normal = normal - bend * inwards
    return Blemishes(coverage, tint, colour, torch.nn.functional.normalize(normal, dim=0))
