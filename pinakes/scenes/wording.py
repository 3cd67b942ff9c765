"""What can be said of a scene in a small vocabulary: phrases, sentences, questions and their answers."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pinakes.scenes.forms import CLASSES, COLOURS
from pinakes.scenes.relations import RELATIONS, Relation, relations
from pinakes.scenes.textures import TEXTURE_NAMES
from pinakes.scenes.world import Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLURALS = {name: {"box": "boxes"}.get(name, f"{name}s") for name in CLASSES}
TEXTURE_WORDS = {
    name: {"gradient": "shaded", "photo": "printed", "brick": "bricked"}.get(name, name)
    for name in TEXTURE_NAMES
}
"""How each texture is called."""

ANSWERS = ("yes", "no", *NUMBERS[1:], *CLASSES, *COLOURS, *TEXTURE_WORDS.values(), "small", "large")
"""Every answer to a question, in the order of their numbers."""

_SMALL_WORDS = (
    "a", "an", "and", "are", "colour", "floor", "how", "is", "large", "many", "of", "on", "size", "small", "texture",
    "the", "there", "what", "yes",
)  # fmt: skip
_RELATION_WORDS = tuple(word for name in RELATIONS for word in name.split())
VOCABULARY = tuple(
    sorted(
        {
            *NUMBERS,
            *CLASSES,
            *PLURALS.values(),
            *COLOURS,
            *TEXTURE_WORDS.values(),
            *_RELATION_WORDS,
            *_SMALL_WORDS,
        }
    )
)
"""Every word of captions, questions and answers, apart from commas and question marks."""


class Question(NamedTuple):
    """A question about a picture, its answer, and what is asked for."""

    question: str
    answer: str
    kind: str


def with_article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def describe(thing: Thing, *words: str) -> str:
    """A noun phrase: the class after some of "scale", "colour" and "texture"; a plain texture is not mentioned."""
    said = []
    if "scale" in words:
        said.append(thing.scale)
    if "colour" in words:
        said.append(thing.colour)
    if "texture" in words and thing.texture != "plain":
        said.append(TEXTURE_WORDS[thing.texture])
    return " ".join([*said, thing.name])


def _listed(phrases: Sequence[str]) -> str:
    return phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def _detail(rng: np.random.Generator) -> tuple[str, ...]:
    return (("colour",), ("colour", "texture"), ("scale", "colour"), ("scale", "colour", "texture"))[
        int(rng.integers(4))
    ]


def _related(rng: np.random.Generator, scene: Scene, relation: Relation) -> str:
    first, second = (describe(scene.things[i], *_detail(rng)) for i in relation[:2])
    return f"{with_article(first)} is {relation.name} {with_article(second)}"


def _counted(scene: Scene, among: Sequence[int]) -> str:
    counts = Counter(scene.things[i].name for i in among)
    phrases = [
        f"{NUMBERS[count]} {PLURALS[name] if count > 1 else name}" for name, count in sorted(counts.items())
    ]
    return f"there {'is' if phrases[0].startswith('one ') else 'are'} {_listed(phrases)}"


def captions(rng: np.random.Generator, scene: Scene, among: Sequence[int], count: int) -> list[str]:
    """Sentences that are true of a scene.

    Args:
        rng: Source of every random choice.
        scene: The scene.
        among: Indices of the things that are seen, at least one.
        count: Number of sentences.
    """
    floor = f"{with_article(TEXTURE_WORDS[scene.ground.texture])} floor"
    order = [int(i) for i in rng.permutation(list(among))]
    related = relations(scene, among)
    sentences = [
        _listed([with_article(describe(scene.things[i], "colour")) for i in order]),
        f"{_counted(scene, among)} on {floor}",
    ]
    while len(sentences) < count:
        if related and rng.random() < 0.7:
            sentences.append(_related(rng, scene, related[int(rng.integers(len(related)))]))
        else:
            thing = scene.things[order[int(rng.integers(len(order)))]]
            sentences.append(f"there is {with_article(describe(thing, *_detail(rng)))} on {floor}")
    return [sentences[int(i)] for i in rng.permutation(len(sentences))[:count]]


def _names(scene: Scene, among: Sequence[int]) -> dict[int, str]:
    """A phrase for each thing that no other seen thing answers to: its class, or its colour and class."""
    names: dict[int, str] = {}
    for words in (("colour",), ()):
        phrases = {i: describe(scene.things[i], *words) for i in among}
        counts = Counter(phrases.values())
        names |= {i: phrase for i, phrase in phrases.items() if counts[phrase] == 1}
    return names


def questions(rng: np.random.Generator, scene: Scene, among: Sequence[int]) -> list[Question]:
    """Questions with one right answer each, as many of "yes" as of "no", in random order.

    Size is asked of several things only: the camera goes as near as its things allow, so one alone always looks large.

    Args:
        rng: Source of every random choice.
        scene: The scene.
        among: Indices of the things that are seen, at least one.
    """
    counts = Counter(scene.things[i].name for i in among)
    absent = [name for name in CLASSES if name not in counts]
    present = sorted(counts)
    found = []
    one = present[int(rng.integers(len(present)))]
    if counts[one] < len(NUMBERS):
        found.append(Question(f"how many {PLURALS[one]} are there?", NUMBERS[counts[one]], "count"))
    asked = one
    if absent and rng.random() < 0.5:
        asked = absent[int(rng.integers(len(absent)))]
    answer = "yes" if asked in counts else "no"
    found.append(Question(f"is there {with_article(asked)}?", answer, "existence"))
    by_class = {i: scene.things[i].name for i in among if counts[scene.things[i].name] == 1}
    for i, name in by_class.items():
        thing = scene.things[i]
        found.append(Question(f"what colour is the {name}?", thing.colour, "colour"))
        found.append(Question(f"what texture is the {name}?", TEXTURE_WORDS[thing.texture], "texture"))
        if len(among) > 1:
            found.append(Question(f"what size is the {name}?", thing.scale, "size"))
    names = _names(scene, among)
    related = relations(scene, among)
    for relation in related:
        subject, target, name = relation
        if target in names:
            same = [r for r in related if r.target == target and r.name == name]
            if len(same) == 1:
                question = f"what is {name} the {names[target]}?"
                found.append(Question(question, scene.things[subject].name, "relation"))
            if subject in names:
                true = bool(rng.random() < 0.5)
                said = name if true else RELATIONS[RELATIONS.index(name) ^ 1]
                question = f"is the {names[subject]} {said} the {names[target]}?"
                found.append(Question(question, "yes" if true else "no", "comparison"))
    return [found[int(i)] for i in rng.permutation(len(found))]
