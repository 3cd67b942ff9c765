"""Relations, captions and questions are true of their scenes."""

import re

import numpy as np
import pytest
import torch

from pinakes.scenes.camera import Cameras
from pinakes.scenes.composition import draw_scene
from pinakes.scenes.forms import CLASSES, COLOURS
from pinakes.scenes.relations import RELATIONS, Relation, inverse, relations
from pinakes.scenes.wording import (
    ANSWERS,
    NUMBERS,
    PLURALS,
    TEXTURE_WORDS,
    VOCABULARY,
    captions,
    describe,
    questions,
)
from pinakes.scenes.world import Scene

SEEDS = range(30)


def _scene(seed: int) -> Scene:
    return draw_scene(np.random.default_rng(seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_relations_hold_in_the_frame_of_the_camera(seed: int) -> None:
    scene = _scene(seed)
    pose = Cameras.of([scene.camera], 64, 64).pose[0]
    centres = torch.tensor([thing.position for thing in scene.things])
    x = (centres - pose[:3, 3]) @ pose[:3, 0]
    forward = pose[:2, 2] / pose[:2, 2].norm()
    away = centres[:, :2] @ forward
    for i, j, name in relations(scene):
        if name == "left of":
            assert x[i] < x[j]
            assert x[i] / (away - pose[:2, 3] @ forward)[i] < x[j] / (away - pose[:2, 3] @ forward)[j]
        if name == "behind":
            assert away[i] > away[j]
        if name == "on":
            assert scene.things[i].stands_on == j
            assert scene.things[i].position[2] > scene.things[j].position[2]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_relation_has_its_inverse(seed: int) -> None:
    found = relations(_scene(seed))
    assert {Relation(j, i, inverse(name)) for i, j, name in found} == set(found)


def test_all_relations_occur() -> None:
    assert {r.name for seed in SEEDS for r in relations(_scene(seed))} == set(RELATIONS)


def _words(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+", sentence)


def _fits(scene: Scene, phrase: str) -> set[int]:
    """Indices of things to which a noun phrase such as "large red striped mug" applies."""
    words = set(_words(phrase)) - {"a", "an", "the"}
    return {
        i
        for i, t in enumerate(scene.things)
        if words <= {t.scale, t.colour, TEXTURE_WORDS[t.texture], t.name} and t.name in words
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_captions_are_true_and_of_the_vocabulary(seed: int) -> None:
    scene = _scene(seed)
    pairs = {(i, j, name) for i, j, name in relations(scene)}
    for sentence in captions(np.random.default_rng(seed), scene, range(len(scene.things)), 8):
        assert set(_words(sentence)) <= set(VOCABULARY)
        stated = re.fullmatch(rf"(.+) is ({'|'.join(RELATIONS)}) (.+)", sentence)
        counted = re.fullmatch(r"there (?:is|are) (.+) on (an? \w+ floor)", sentence)
        if counted:
            assert TEXTURE_WORDS[scene.ground.texture] in counted[2]
            for phrase in re.split(r", | and ", counted[1]):
                number, _, rest = phrase.partition(" ")
                if number in NUMBERS:
                    name = next(n for n in CLASSES if rest in (n, PLURALS[n]))
                    assert NUMBERS.index(number) == sum(t.name == name for t in scene.things)
                else:
                    assert _fits(scene, phrase)
        elif stated:
            assert any(
                (i, j, stated[2]) in pairs for i in _fits(scene, stated[1]) for j in _fits(scene, stated[3])
            )
        else:
            phrases = re.split(r", | and ", sentence)
            assert len(phrases) == len(scene.things)
            assert all(_fits(scene, phrase) for phrase in phrases)


def _answer(scene: Scene, question: str) -> str:
    """Answers a question by looking at the scene, with no knowledge of how it was made."""
    things, pairs = scene.things, relations(scene)
    if match := re.fullmatch(r"how many (\w+) are there\?", question):
        return NUMBERS[sum(PLURALS[t.name] == match[1] for t in things)]
    if match := re.fullmatch(r"is there an? (\w+)\?", question):
        return "yes" if any(t.name == match[1] for t in things) else "no"
    if match := re.fullmatch(r"what (colour|texture|size) is the (\w+)\?", question):
        (thing,) = (t for t in things if t.name == match[2])
        return {"colour": thing.colour, "texture": TEXTURE_WORDS[thing.texture], "size": thing.scale}[
            match[1]
        ]
    if match := re.fullmatch(rf"what is ({'|'.join(RELATIONS)}) the (.+)\?", question):
        (target,) = _fits(scene, match[2])
        (subject,) = (r.subject for r in pairs if r.target == target and r.name == match[1])
        return things[subject].name
    match = re.fullmatch(rf"is the (.+) ({'|'.join(RELATIONS)}) the (.+)\?", question)
    assert match
    (subject,), (target,) = _fits(scene, match[1]), _fits(scene, match[3])
    return "yes" if Relation(subject, target, match[2]) in pairs else "no"


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_are_right_and_of_the_list(seed: int) -> None:
    scene = _scene(seed)
    for question, answer, _ in questions(np.random.default_rng(seed), scene, range(len(scene.things))):
        assert answer in ANSWERS
        assert set(_words(question)) | set(_words(answer)) <= set(VOCABULARY)
        assert _answer(scene, question) == answer


def test_answers_are_listed_once() -> None:
    assert len(set(ANSWERS)) == len(ANSWERS)


def test_plain_is_not_said_and_colours_are() -> None:
    thing = _scene(0).things[0]
    assert any(colour in describe(thing, "colour") for colour in COLOURS)
    assert "plain" not in describe(thing, "texture")
