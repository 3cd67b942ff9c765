"""The scene graph of a picture."""

import torch

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.labels.detection import boxes_of, visible_things
from pinakes.scenes.relations import RELATIONS, relations


def samples(block: Block, *, things: int = 4, textures: Source = "procedural") -> list[Sample]:
    """Things with boxes (thing, 4) and labels (thing), and `triplets` (relation, 3) of subject, relation and object:
    rows of the boxes, and numbers of `pinakes.scenes.relations.RELATIONS`.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    scenes = [draw_scene(rng, distribution) for rng in block.generators()]
    out = block.render(scenes, "image", "instance")
    found = []
    for scene, image, instance in zip(scenes, out["image"], out["instance"], strict=True):
        seen, masks = visible_things(instance, scene)
        row = {thing: place for place, thing in enumerate(seen)}
        triplets = [(row[r.subject], RELATIONS.index(r.name), row[r.target]) for r in relations(scene, seen)]
        found.append(
            {
                "image": image,
                "boxes": boxes_of(masks),
                "labels": torch.tensor([scene.things[i].category for i in seen], dtype=torch.int64),
                "triplets": torch.tensor(triplets, dtype=torch.int64).view(-1, 3),
            }
        )
    return found


LABEL = Label("boxes, classes and spatial relations", samples, lambda **options: CLASSES)
