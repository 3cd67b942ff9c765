"""Orientation of the surface at every pixel."""

import torch

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about


def samples(block: Block, *, things: int = 5, textures: Source = "procedural") -> list[Sample]:
    """Several things, and the unit normal at every pixel in the frame of the camera: x right, y down, z forward.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    out = block.render(scenes, "image", "normal")
    pose = block.cameras([scene.camera for scene in scenes]).pose
    out["normal"] = torch.einsum("bji,bjhw->bihw", pose[:, :3, :3], out["normal"])
    return block.apart(out)


LABEL = Label("surface normals in the frame of the camera", samples)
