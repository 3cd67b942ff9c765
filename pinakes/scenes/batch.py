"""Scenes as tensors: one object that holds many scenes, ready for one call of the renderer."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pinakes.scenes.primitives import KINDS, PRIMITIVES
from pinakes.scenes.textures import TEXTURE_NAMES
from pinakes.scenes.world import GAMMA, Mark, Material, Scene

MARK_KINDS = ("scratch", "dent", "stain")


@dataclass(frozen=True)
class SceneBatch:
    """Scenes padded to the same number of things, parts, lights and marks.

    The surfaces of a scene are numbered: 0 the background, 1 the ground, 2 + p the part p. Colours are linear.
    Empty places have a kind, category or mark kind of -1.
    """

    part_kind: Int[Tensor, "scene part"]
    part_thing: Int[Tensor, "scene part"]
    part_size: Float[Tensor, "scene part 3"]
    part_offset: Float[Tensor, "scene part 3"]
    part_rotation: Float[Tensor, "scene part 3 3"]
    thing_category: Int[Tensor, "scene thing"]
    thing_position: Float[Tensor, "scene thing 3"]
    thing_rotation: Float[Tensor, "scene thing 3 3"]
    thing_velocity: Float[Tensor, "scene thing 3"]
    thing_spin: Float[Tensor, "scene thing"]
    texture: Int[Tensor, "scene surface"]
    photo: Int[Tensor, "scene surface"]
    colour: Float[Tensor, "scene surface 3"]
    second: Float[Tensor, "scene surface 3"]
    period: Float[Tensor, "scene surface"]
    phase: Float[Tensor, "scene surface"]
    specular: Float[Tensor, "scene surface"]
    gloss: Float[Tensor, "scene surface"]
    light_position: Float[Tensor, "scene light 3"]
    light_colour: Float[Tensor, "scene light 3"]
    light_radius: Float[Tensor, "scene light"]
    sky: Float[Tensor, "scene 3"]
    mark_kind: Int[Tensor, "scene mark"]
    mark_thing: Int[Tensor, "scene mark"]
    mark_ends: Float[Tensor, "scene mark 2 3"]
    mark_radius: Float[Tensor, "scene mark"]
    mark_colour: Float[Tensor, "scene mark 3"]
    mark_phase: Float[Tensor, "scene mark"]

    def __len__(self) -> int:
        return len(self.part_kind)

    def to(self, device: torch.device | str) -> "SceneBatch":
        """The same on another device."""
        return SceneBatch(**{item.name: getattr(self, item.name).to(device) for item in fields(self)})

    def at(self, time: float) -> "SceneBatch":
        """The same scenes after `time` frames of movement."""
        about_z = torch.zeros_like(self.thing_position)
        about_z[..., 2] = self.thing_spin * time
        return replace(
            self,
            thing_position=self.thing_position + time * self.thing_velocity,
            thing_rotation=rotations(about_z) @ self.thing_rotation,
        )

    def semantic(self, surface: Int[Tensor, "scene ray"]) -> Int[Tensor, "scene ray"]:
        """Semantic ids of surfaces: 0 the background, 1 the ground, 2 and up the categories of things."""
        return torch.gather(self._by_surface(self.thing_category + 2, 0, 1), 1, surface)

    def instance(self, surface: Int[Tensor, "scene ray"]) -> Int[Tensor, "scene ray"]:
        """Instance ids of surfaces: 0 where there is no thing, else the index of the thing plus one."""
        index = torch.arange(1, self.thing_category.shape[1] + 1, device=surface.device)
        return torch.gather(self._by_surface(index.expand_as(self.thing_category), 0, 0), 1, surface)

    def _by_surface(self, of_thing: Tensor, background: int, ground: int) -> Tensor:
        fixed = torch.tensor([background, ground], device=of_thing.device).expand(len(self), 2)
        return torch.cat([fixed, torch.gather(of_thing, 1, self.part_thing)], dim=1)

    def part_frames(self) -> tuple[Float[Tensor, "scene part 3 3"], Float[Tensor, "scene part 3"]]:
        """Rotations and centres of all parts in the world."""
        scene = torch.arange(len(self), device=self.part_thing.device)[:, None]
        rotation = self.thing_rotation[scene, self.part_thing]
        centre = (rotation @ self.part_offset[..., None])[..., 0] + self.thing_position[
            scene, self.part_thing
        ]
        return rotation @ self.part_rotation, centre

    def bounds(self) -> Float[Tensor, "scene part"]:
        """Radius of the ball around each part; -1 for empty places."""
        radius = torch.full_like(self.part_size[..., 0], -1.0)
        for kind, name in enumerate(KINDS):
            chosen = self.part_kind == kind
            radius[chosen] = PRIMITIVES[name].bound(self.part_size[chosen])
        return radius

    @property
    def present(self) -> Bool[Tensor, "scene part"]:
        """Which places hold a part."""
        return self.part_kind >= 0


def rotations(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of rotation vectors (Rodrigues' formula)."""
    angle = vectors.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    x, y, z = (vectors / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return eye + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)


def _padded(rows: list[list[tuple[float, ...]]], width: int, least: int = 1) -> Tensor:
    """Rows of tuples as a tensor (row, place, width), with zeros in the empty places."""
    places = max(least, *(len(row) for row in rows))
    blank = (0.0,) * width
    flat = [value for row in rows for item in (*row, *[blank] * (places - len(row))) for value in item]
    return torch.tensor(flat, dtype=torch.float32).view(len(rows), places, width)


_TEXTURE_INDEX = {name: index for index, name in enumerate(TEXTURE_NAMES)}
_KIND_INDEX = {name: index for index, name in enumerate(KINDS)}


def _material(m: Material) -> tuple[float, ...]:
    return (_TEXTURE_INDEX[m.texture], m.photo, m.period, m.phase, m.specular, m.gloss, *m.colour, *m.second)


def _mark(m: Mark) -> tuple[float, ...]:
    return (MARK_KINDS.index(m.kind) + 1, m.thing, m.radius, m.phase, *m.colour, *m.start, *m.end)


def batch_scenes(scenes: Sequence[Scene]) -> SceneBatch:
    """Makes one batch of tensors of several scenes.

    Args:
        scenes: One scene or more.
    """
    parts = _padded(
        [
            [
                (_KIND_INDEX[part.kind] + 1, index, *part.size, *part.offset, *part.turn)
                for index, thing in enumerate(scene.things)
                for part in thing.parts
            ]
            for scene in scenes
        ],
        11,
    )
    things = _padded(
        [
            [(t.category + 1, *t.position, *t.turn, *t.velocity, t.spin) for t in scene.things]
            for scene in scenes
        ],
        11,
    )
    surfaces = _padded(
        [
            [
                _material(scene.background),
                _material(scene.ground),
                *(_material(part.material) for thing in scene.things for part in thing.parts),
            ]
            for scene in scenes
        ],
        12,
        least=3,
    )
    lights = _padded([[(*i.position, *i.colour, i.radius) for i in scene.lights] for scene in scenes], 7)
    marks = _padded([[_mark(mark) for mark in scene.marks] for scene in scenes], 13, least=0)
    return SceneBatch(
        part_kind=parts[..., 0].long() - 1,
        part_thing=parts[..., 1].long(),
        part_size=parts[..., 2:5],
        part_offset=parts[..., 5:8],
        part_rotation=rotations(parts[..., 8:11]),
        thing_category=things[..., 0].long() - 1,
        thing_position=things[..., 1:4],
        thing_rotation=rotations(things[..., 4:7]),
        thing_velocity=things[..., 7:10],
        thing_spin=things[..., 10],
        texture=surfaces[..., 0].long(),
        photo=surfaces[..., 1].long(),
        period=surfaces[..., 2].clamp_min(1e-3),
        phase=surfaces[..., 3],
        specular=surfaces[..., 4],
        gloss=surfaces[..., 5],
        colour=surfaces[..., 6:9].pow(GAMMA),
        second=surfaces[..., 9:12].pow(GAMMA),
        light_position=lights[..., 0:3],
        light_colour=lights[..., 3:6],
        light_radius=lights[..., 6],
        sky=torch.tensor([scene.sky for scene in scenes]),
        mark_kind=marks[..., 0].long() - 1,
        mark_thing=marks[..., 1].long(),
        mark_radius=marks[..., 2],
        mark_phase=marks[..., 3],
        mark_colour=marks[..., 4:7].pow(GAMMA),
        mark_ends=marks[..., 7:13].unflatten(-1, (2, 3)),
    )
