"""Pictures of scenes: one call renders a batch, and gives only what was asked for."""

from collections.abc import Collection

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pinakes.errors import UserError, suggest
from pinakes.scenes.appearance import Points, albedo, blemishes, by_surface, surface_points, texels
from pinakes.scenes.batch import SceneBatch
from pinakes.scenes.camera import Cameras, Rays
from pinakes.scenes.shadows import openness, visible_share
from pinakes.scenes.tracer import Solids, trace
from pinakes.scenes.world import GAMMA

OUTPUTS = (
    "image", "depth", "position", "normal", "albedo", "shading", "instance", "semantic", "coordinates", "mark",
)  # fmt: skip
_LIGHT = ("image", "shading")
_COLOUR = ("image", "albedo")
_EDGE_OFFSETS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))


def render(
    scenes: SceneBatch,
    cameras: Cameras,
    outputs: Collection[str] = ("image",),
    *,
    antialias: bool = True,
    shadow_samples: int = 8,
) -> dict[str, Tensor]:
    """Renders a batch of scenes, each with its camera.

    Args:
        scenes: The scenes.
        cameras: As many cameras.
        outputs: What is wanted: "image" (scene, 3, height, width), sRGB in [0, 1]; "depth" (scene, height,
            width), along the optical axis, in scene units; "position" (scene, 3, height, width) in the world;
            "normal", likewise, unit vectors in the world; "albedo" and "shading", likewise, linear light, whose
            product to the power 1 / 2.2 is the image where nothing is glossy, brighter than 1 or smoothed;
            "instance" and "semantic" (scene, height, width), int64, 0 for no thing; "coordinates" (scene, 2,
            height, width), in periods of the texture; "mark" (scene, height, width), true on blemishes.
        antialias: Whether pixels of the image at edges get four more rays; the other outputs are at the centre
            of the pixel in any case.
        shadow_samples: Points on each lamp that shadow rays look for; 0 leaves shadows out.

    Raises:
        UserError: If an output is unknown.
    """
    for name in outputs:
        if name not in OUTPUTS:
            raise UserError(f"unknown output {name!r} of the renderer{suggest(name, OUTPUTS)}")
    solids = Solids(scenes)
    rays = cameras.rays()
    found = _look(scenes, solids, cameras, rays, outputs, shadow_samples)
    if "image" in outputs and antialias:
        edges = _edges(found["surface"], found["normal"], cameras)
        found["image"] = _smooth(scenes, solids, cameras, found["image"], edges, shadow_samples)
    if "image" in outputs:
        found["image"] = found["image"].pow(1 / GAMMA)
    return {name: _picture(found[name], cameras) for name in outputs}


def _picture(values: Tensor, cameras: Cameras) -> Tensor:
    shaped = values.unflatten(-1, (cameras.height, cameras.width))
    return shaped.transpose(0, 1).contiguous() if values.ndim == 3 else shaped


def _look(
    scenes: SceneBatch,
    solids: Solids,
    cameras: Cameras,
    rays: Rays,
    outputs: Collection[str],
    shadow_samples: int,
) -> dict[str, Tensor]:
    """All outputs along some rays, components first: (3, scene, ray) or (scene, ray); the image is linear."""
    hits = trace(solids, rays)
    position = rays.at(hits.distance)
    found: dict[str, Tensor] = {"position": position, "surface": hits.surface}
    if "depth" in outputs:
        found["depth"] = cameras.depth(position)
    if "instance" in outputs:
        found["instance"] = scenes.instance(hits.surface)
    if "semantic" in outputs:
        found["semantic"] = scenes.semantic(hits.surface)
    if not {"image", "normal", "albedo", "shading", "coordinates", "mark"} & set(outputs):
        return found
    points = surface_points(solids, position, hits)
    found["normal"] = points.normal
    marked = scenes.mark_kind.shape[1] > 0
    if marked:
        marks = blemishes(scenes, points)
        shown = Points(position, marks.normal, hits.surface)
    else:
        shown = points
    if "mark" in outputs:
        found["mark"] = marks.coverage > 0.1 if marked else torch.zeros_like(hits.surface, dtype=torch.bool)
    if any(name in outputs for name in (*_COLOUR, "coordinates")):
        place = texels(scenes, solids, points)
        found["coordinates"] = place.coordinates
    if any(name in outputs for name in _COLOUR):
        cosine = (points.normal * rays.direction).sum(0).abs().clamp_min(0.15)
        footprint = hits.distance / cameras.intrinsics[:, 1, 1, None] / cosine
        found["albedo"] = albedo(scenes, points, place, footprint)
        if marked:
            found["albedo"] = found["albedo"].lerp(marks.colour, marks.tint)
    if any(name in outputs for name in _LIGHT):
        diffuse, highlight = _light(scenes, solids, rays, points, shown, shadow_samples)
        found["shading"] = diffuse
        if "image" in outputs:
            found["image"] = (found["albedo"] * diffuse + highlight).clamp(0, 1)
    return found


def _light(
    scenes: SceneBatch, solids: Solids, rays: Rays, points: Points, shown: Points, shadow_samples: int
) -> tuple[Float[Tensor, "3 scene ray"], Float[Tensor, "3 scene ray"]]:
    """Diffuse light on surfaces, and the highlights (Blinn and Phong) that they send to the eye.

    `points` are the true surfaces, which cast shadows; `shown` has the normals that are lit.
    """
    sky, normal, surface = scenes.sky.T[:, :, None], shown.normal, points.surface
    diffuse = sky * (0.65 + 0.35 * normal[2]) * openness(solids, points.position, points.normal)
    specular, gloss = by_surface(scenes.specular, surface), by_surface(scenes.gloss, surface)
    highlight = torch.zeros_like(diffuse)
    for lamp in range(scenes.light_radius.shape[1]):
        where, radius = scenes.light_position[:, lamp], scenes.light_radius[:, lamp]
        towards = where.T[:, :, None] - points.position
        towards = towards / towards.square().sum(0).sqrt()
        cosine = (towards * normal).sum(0).clamp_min(0)
        colour = scenes.light_colour[:, lamp].T[:, :, None]
        if shadow_samples:
            share = visible_share(
                solids, points.position, points.normal, surface, where, radius, shadow_samples
            )
            colour = colour * share
        diffuse = diffuse + colour * cosine
        half = towards - rays.direction
        shine = ((half * normal).sum(0) / half.square().sum(0).sqrt().clamp_min(1e-6)).clamp_min(0)
        highlight = highlight + colour * (specular * shine.pow(gloss) * (cosine > 0))
    glowing = surface == 0
    return diffuse.masked_fill(glowing, 1.0), highlight.masked_fill(glowing, 0.0)


def _edges(
    surface: Int[Tensor, "scene ray"], normal: Float[Tensor, "3 scene ray"], cameras: Cameras
) -> Bool[Tensor, "scene ray"]:
    """Pixels whose right or lower neighbour lies on another surface or beyond a crease, and those neighbours."""
    shape = (cameras.height, cameras.width)
    surface, normal = surface.unflatten(-1, shape), normal.unflatten(-1, shape)
    edges = torch.zeros_like(surface, dtype=torch.bool)
    across = surface[..., 1:] != surface[..., :-1]
    across |= (normal[..., 1:] * normal[..., :-1]).sum(0) < 0.8
    down = surface[:, 1:] != surface[:, :-1]
    down |= (normal[:, :, 1:] * normal[:, :, :-1]).sum(0) < 0.8
    edges[..., 1:] |= across
    edges[..., :-1] |= across
    edges[:, 1:] |= down
    edges[:, :-1] |= down
    return edges.flatten(1)


def _smooth(
    scenes: SceneBatch,
    solids: Solids,
    cameras: Cameras,
    image: Float[Tensor, "3 scene ray"],
    edges: Bool[Tensor, "scene ray"],
    shadow_samples: int,
) -> Float[Tensor, "3 scene ray"]:
    """Averages edge pixels with four more rays each, on a rotated grid."""
    most = int(edges.sum(1).max())
    if not most:
        return image
    pixel = edges.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    chosen = torch.gather(edges, 1, pixel)
    place = torch.stack([pixel % cameras.width, torch.div(pixel, cameras.width, rounding_mode="floor")])
    offsets = torch.tensor(_EDGE_OFFSETS, device=image.device).T
    inside = (place[..., None] + offsets[:, None, None]).flatten(2)
    seen = _look(scenes, solids, cameras, cameras.rays(inside), ("image",), min(shadow_samples, 4))["image"]
    average = (seen.unflatten(-1, (most, 4)).sum(-1) + image.gather(2, pixel.expand(3, -1, -1))) / 5
    smoothed = torch.where(chosen, average, image.gather(2, pixel.expand(3, -1, -1)))
    return image.scatter(2, pixel.expand(3, -1, -1), smoothed)
