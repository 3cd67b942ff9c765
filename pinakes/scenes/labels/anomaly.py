"""Manufactured parts, good ones to train on and defective ones to find."""

from typing import Literal

import torch

from pinakes.data.base import Sample
from pinakes.errors import UserError, suggest
from pinakes.scenes.defects import DEFECTS, mark, remove, swap
from pinakes.scenes.label import Block, Label
from pinakes.scenes.products import LOOSE, draw_product


def _kinds(defects: str) -> tuple[str, ...]:
    kinds = DEFECTS if defects == "all" else tuple(defects.split(","))
    for kind in kinds:
        if kind not in DEFECTS:
            raise UserError(f"the option 'defects' cannot hold '{kind}'{suggest(kind, ('all', *DEFECTS))}")
    return kinds


def samples(
    block: Block, *, product: Literal["flange", "board", "sweets"] = "flange", defects: str = "all"
) -> list[Sample]:
    """One part a picture, seen from above. Training and validation parts are good, label 0, kind "good"; in the
    test every second one has a defect, label 1, with its kind and its mask.

    A mask holds the pixels whose surface or colour is not that of the same piece without the defect.

    Args:
        block: Which samples.
        product: What is made.
        defects: Kinds of defects, with commas between them, or "all".
    """
    wanted = _kinds(defects)
    generators = block.generators()
    good = [draw_product(rng, product) for rng in generators]
    kinds = [
        wanted[index // 2 % len(wanted)] if block.split == "test" and index % 2 else "good"
        for index in block.indices
    ]
    scenes = good
    mask = torch.zeros(len(good), *block.size, dtype=torch.bool)
    if any(kind != "good" for kind in kinds):
        before = block.render(good, "position", "instance", "albedo")
        scenes = []
        for i, (scene, kind, rng) in enumerate(zip(good, kinds, generators, strict=True)):
            if kind == "missing":
                scene = remove(rng, scene, LOOSE[product])
            elif kind == "swapped":
                scene = swap(rng, scene, LOOSE[product])
            elif kind != "good":
                scene = mark(
                    rng, scene, kind, before["position"][i], before["albedo"][i], before["instance"][i] > 0
                )
            scenes.append(scene)
        after = block.render(scenes, "position", "albedo", "mark")
        moved = (after["position"] - before["position"]).norm(dim=1) > 0.01
        recoloured = (after["albedo"] - before["albedo"]).abs().amax(1) > 0.02
        mask = moved | recoloured | after["mark"]
    pictures = block.apart(block.render(scenes, "image") | {"mask": mask})
    return [
        sample | {"label": int(kind != "good"), "kind": kind}
        for sample, kind in zip(pictures, kinds, strict=True)
    ]


LABEL = Label("good and defective parts", samples, lambda **options: ("normal", "anomalous"))
