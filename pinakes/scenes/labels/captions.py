"""Sentences about a picture."""

from pinakes.data.base import Sample
from pinakes.errors import UserError
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.labels.detection import visible_things
from pinakes.scenes.wording import captions


def samples(
    block: Block, *, things: int = 3, sentences: int = 5, textures: Source = "procedural"
) -> list[Sample]:
    """Several true sentences a picture in `captions`, separate lines of one string, and the first as `caption`.

    All words are in `pinakes.scenes.wording.VOCABULARY`.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        sentences: Sentences a picture.
        textures: Where textures come from.
    """
    if sentences < 1:
        raise UserError(f"the option 'sentences' must be at least 1, got {sentences}")
    distribution = Distribution(things=about(things)).textured_by(textures)
    generators = block.generators()
    scenes = [draw_scene(rng, distribution) for rng in generators]
    out = block.render(scenes, "image", "instance")
    found = []
    for scene, rng, image, instance in zip(scenes, generators, out["image"], out["instance"], strict=True):
        seen, _ = visible_things(instance, scene)
        lines = captions(rng, scene, seen or range(len(scene.things)), sentences)
        found.append({"image": image, "caption": lines[0], "captions": "\n".join(lines)})
    return found


LABEL = Label("sentences in a small vocabulary", samples)
