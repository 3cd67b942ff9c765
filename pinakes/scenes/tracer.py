"""The ray caster: what rays meet first, and how much of a lamp a point sees. Every sensor stands on it.

For each ray the parts whose bounding ball it misses are left out by two small matrix products; only the pairs
of ray and part that remain are intersected, one call for each kind of primitive over the whole batch. Work is
done in slices of rays so that memory does not grow with the size of the picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from pinakes.scenes.batch import SceneBatch
from pinakes.scenes.camera import Rays
from pinakes.scenes.primitives import INFINITY, KINDS, PRIMITIVES
from pinakes.scenes.world import DOME_RADIUS

SLICE = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Most combinations of ray and part that are looked at together: what fits a cache, or fills a GPU."""
CLEARANCE = 2e-3
"""How far from a surface a shadow ray starts, in scene units."""


@dataclass(frozen=True)
class Hits:
    """What rays meet: how far along the ray, and which surface (0 background, 1 ground, 2 + p the part p)."""

    distance: Float[Tensor, "scene ray"]
    surface: Int[Tensor, "scene ray"]


class Solids:
    """The parts of a batch of scenes where they are in the world, arranged for intersection."""

    def __init__(self, scenes: SceneBatch) -> None:
        rotation, centre = scenes.part_frames()
        self.rotation, self.centre, self.bound = rotation, centre, scenes.bounds()
        self.size = scenes.part_size
        self.parts = centre.shape[1]
        kind = scenes.part_kind.flatten()
        self.kind = kind
        self.kinds = [k for k in range(len(KINDS)) if (kind == k).any()]
        convex = torch.tensor([p.convex for p in PRIMITIVES.values()], device=kind.device)
        self.convex = convex[kind.clamp_min(0)]
        columns = [rotation.transpose(-1, -2).flatten(2), centre, scenes.part_size]
        self.table = torch.cat(columns, dim=-1).flatten(0, 1).T.contiguous()

    def local(
        self, part: Int[Tensor, "n"], vector: Float[Tensor, "3 n"], *, point: bool
    ) -> Float[Tensor, "3 n"]:
        """Points, or directions, of the world in the frames of parts (counted over the whole batch)."""
        frame = columns(self.table[: 12 if point else 9], part)
        x, y, z = vector - frame[9:12] if point else vector
        return torch.stack([frame[3 * i] * x + frame[3 * i + 1] * y + frame[3 * i + 2] * z for i in range(3)])

    def sizes(self, part: Int[Tensor, "n"]) -> Float[Tensor, "3 n"]:
        """Sizes of parts (counted over the whole batch)."""
        return columns(self.table[12:15], part)

    def candidates(
        self,
        rays: Rays,
        radius: Float[Tensor, "scene light"] | None = None,
        reach: Float[Tensor, "scene ray"] | None = None,
    ) -> Bool[Tensor, "scene part ray"]:
        """Which parts a ray may meet: those whose bounding ball it touches.

        Args:
            rays: The rays.
            radius: For a bundle of rays that opens to this radius at `reach`, that radius, (scene, 1).
            reach: Length of the rays, for shadows.
        """
        origin, direction = rays.origin.transpose(0, 1), rays.direction.transpose(0, 1)
        along = self.centre @ direction
        along -= (origin * direction).sum(1, keepdim=True)
        square = (self.centre @ origin).mul_(-2)
        square += self.centre.square().sum(-1, keepdim=True)
        square += origin.square().sum(1, keepdim=True)
        bound = self.bound[..., None]
        wide = bound * 1.005 + 2e-3
        mask = along > -bound
        mask &= bound > 0
        if reach is None or radius is None:
            return mask.logical_and_(square.sub_(along.square()) < wide.square())
        mask &= along < reach[:, None] + bound
        wide = along * (radius / reach)[:, None] + wide
        return mask.logical_and_(square.sub_(along.square()) < wide.square_())


def columns(table: Shaped[Tensor, "row column"], index: Int[Tensor, "n"]) -> Shaped[Tensor, "row n"]:
    """Columns of a table; row by row, which is several times as fast as indexing all rows together."""
    return torch.stack([row.index_select(0, index) for row in table])


def meet(
    kind: int,
    origin: Float[Tensor, "3 n"],
    direction: Float[Tensor, "3 n"],
    size: Float[Tensor, "3 n"],
) -> Float[Tensor, "n"]:
    """Distance along rays, in the frames of parts of one kind, to these parts; infinity where missed."""
    nearest = -(origin[0] * direction[0] + origin[1] * direction[1] + origin[2] * direction[2])
    t = PRIMITIVES[KINDS[kind]].hit(origin + nearest * direction, direction, size, -nearest)
    return t + nearest


def slices(rays: Rays, parts: int) -> Iterator[slice]:
    """Cuts rays into runs of which each makes at most `SLICE` combinations with the parts."""
    _, scenes, count = rays.origin.shape
    step = max(1, SLICE.get(rays.origin.device.type, SLICE["cuda"]) // (scenes * parts))
    for start in range(0, count, step):
        yield slice(start, start + step)


def pairs(mask: Bool[Tensor, "scene part ray"]) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """The set places of a mask as indices of parts and rays, each counted over the whole batch."""
    _, parts, rays = mask.shape
    flat = mask.flatten().nonzero()[:, 0]
    part = torch.div(flat, rays, rounding_mode="floor")
    scene = torch.div(part, parts, rounding_mode="floor")
    return part, flat - (part - scene) * rays


def trace(solids: Solids, rays: Rays) -> Hits:
    """What each ray meets first; the ground and the dome are always there, so that every ray meets something.

    Args:
        solids: The parts of the scenes.
        rays: Rays that start inside the dome.
    """
    distance, surface = _surroundings(rays)
    for cut in slices(rays, solids.parts):
        some = Rays(rays.origin[..., cut].contiguous(), rays.direction[..., cut].contiguous())
        nearest, part = _nearest_part(solids, some)
        closer = nearest < distance[:, cut]
        distance[:, cut] = torch.where(closer, nearest, distance[:, cut])
        surface[:, cut] = torch.where(closer, part + 2, surface[:, cut])
    return Hits(distance, surface)


def _surroundings(rays: Rays) -> tuple[Float[Tensor, "scene ray"], Int[Tensor, "scene ray"]]:
    along = (rays.origin * rays.direction).sum(0)
    square = rays.origin.square().sum(0)
    dome = -along + (along.square() - square + DOME_RADIUS**2).clamp_min(0).sqrt()
    down = rays.direction[2]
    ground = torch.where(down < -1e-6, -rays.origin[2] / down.clamp_max(-1e-6), INFINITY)
    ground = ground.masked_fill(ground <= 0, INFINITY)
    return torch.minimum(ground, dome), (ground < dome).long()


def _nearest_part(solids: Solids, rays: Rays) -> tuple[Float[Tensor, "scene ray"], Int[Tensor, "scene ray"]]:
    shape = rays.origin.shape[1:]
    origin, direction = rays.origin.flatten(1), rays.direction.flatten(1)
    part, ray = pairs(solids.candidates(rays))
    kind = solids.kind[part]
    nearest = origin.new_full((origin.shape[1],), INFINITY)
    found = []
    for k in solids.kinds:
        chosen = (kind == k).nonzero()[:, 0]
        p, r = part[chosen], ray[chosen]
        o = solids.local(p, columns(origin, r), point=True)
        d = solids.local(p, columns(direction, r), point=False)
        t = meet(k, o, d, solids.sizes(p))
        met = t.isfinite().nonzero()[:, 0]
        found.append((p[met], r[met], t[met]))
        nearest.scatter_reduce_(0, found[-1][1], found[-1][2], "amin")
    winner = torch.full_like(nearest, -1, dtype=torch.long)
    for p, r, t in found:
        first = (t <= nearest[r]).nonzero()[:, 0]
        winner.scatter_reduce_(0, r[first], p[first] % solids.parts, "amax")
    return nearest.view(shape), winner.view(shape)
