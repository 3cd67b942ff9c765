"""Questions about a picture, with their answers."""

from pinakes.data.base import Sample
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.distribution import Distribution, Source
from pinakes.scenes.label import Block, Label, about
from pinakes.scenes.labels.detection import visible_things
from pinakes.scenes.wording import ANSWERS, questions


def samples(block: Block, *, things: int = 3, textures: Source = "procedural") -> list[Sample]:
    """One `question` a picture, its `answer` in words, the number of the answer as `label`, and as `kind` what is
    asked for: count, existence, colour, texture, size, relation or comparison.

    Args:
        block: Which samples.
        things: Things in a picture, one more or less.
        textures: Where textures come from.
    """
    distribution = Distribution(things=about(things)).textured_by(textures)
    generators = block.generators()
    scenes = [draw_scene(rng, distribution) for rng in generators]
    out = block.render(scenes, "image", "instance")
    found = []
    for scene, rng, image, instance in zip(scenes, generators, out["image"], out["instance"], strict=True):
        seen, _ = visible_things(instance, scene)
        asked = questions(rng, scene, seen or range(len(scene.things)))
        kinds = sorted({question.kind for question in asked})
        kind = kinds[int(rng.integers(len(kinds)))]
        question = next(question for question in asked if question.kind == kind)
        found.append({"image": image, **question._asdict(), "label": ANSWERS.index(question.answer)})
    return found


LABEL = Label("questions with answers", samples, lambda **options: ANSWERS)
