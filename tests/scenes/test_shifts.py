"""Attributes, long tails, groups and domains are distributed as their options say."""

import torch

from pinakes.scenes.label import Block, Label
from pinakes.scenes.labels import find_label
from pinakes.scenes.labels.attributes import ATTRIBUTES, SHAPE_ATTRIBUTES, TABLE
from pinakes.scenes.labels.domains import STYLES
from pinakes.scenes.labels.longtail import frequencies
from pinakes.scenes.relations import RELATIONS
from pinakes.scenes.sensor import Sensor
from tests.scenes.test_labels import SIZE, samples


def _labels(what: str, split: str, count: int, **options: object) -> list[dict]:
    """Samples at the smallest size, made in one block."""
    label: Label = find_label(what)
    return label.samples(Block(what, split, range(count), (16, 16), 0), **options)


def test_attributes_are_those_of_the_class_a_colour_and_a_texture() -> None:
    for sample in samples("attributes"):
        assert sample["attributes"].shape == (len(ATTRIBUTES),)
        shape = sample["attributes"][: len(SHAPE_ATTRIBUTES)]
        assert torch.equal(shape.bool(), TABLE[sample["label"]])
        assert sample["attributes"][len(SHAPE_ATTRIBUTES) :].sum() == 2


def test_the_table_tells_the_classes_apart() -> None:
    assert len(TABLE.unique(dim=0)) >= 9


def test_unseen_classes_are_in_the_test_only() -> None:
    assert max(s["label"] for s in _labels("attributes", "train", 40, unseen=3)) < 7
    assert min(s["label"] for s in _labels("attributes", "test", 40, unseen=3)) >= 7


def test_the_tail_is_as_long_as_asked() -> None:
    labels = torch.tensor([s["label"] for s in _labels("longtail", "train", 150, imbalance=20.0)])
    counts = labels.bincount(minlength=10) / 150
    torch.testing.assert_close(counts, torch.tensor(frequencies(20.0)), atol=0.02, rtol=0)
    balanced = torch.tensor([s["label"] for s in _labels("longtail", "test", 60)]).bincount(minlength=10)
    assert balanced.min() >= 4


def test_groups_go_with_labels_in_training_only() -> None:
    train = _labels("groups", "train", 100, correlation=0.8)
    same = sum(s["label"] == s["group"] for s in train) / 100
    assert 0.8 < same < 0.98
    test = [(s["label"], s["group"]) for s in _labels("groups", "test", 40)]
    assert {test.count(pair) for pair in set(test)} == {10}


def test_the_held_out_domain_is_in_the_test_only() -> None:
    train, test = (_labels("domains", split, 20, held_out="dusk") for split in ("train", "test"))
    assert {s["kind"] for s in test} == {"dusk"}
    assert {s["kind"] for s in train} == set(STYLES) - {"dusk"}
    assert all(tuple(STYLES)[s["domain"]] == s["kind"] for s in train)


def test_colour_predicts_the_class_in_training_only() -> None:
    train, test = (
        torch.tensor([s["aligned"] for s in _labels("domains", split, 70, shift="correlation")])
        .float()
        .mean()
        for split in ("train", "test")
    )
    assert train > 0.8
    assert test < 0.25


def test_intrinsic_layers_multiply_to_the_picture() -> None:
    for sample in samples("intrinsics"):
        made = (sample["albedo"] * sample["shading"]).clamp(0, 1).pow(1 / 2.2)
        torch.testing.assert_close(sample["image"], made, atol=0.51 / 255, rtol=0)


def test_triplets_name_rows_and_relations() -> None:
    for sample in samples("relations"):
        assert len(sample["boxes"]) == len(sample["labels"])
        if len(sample["triplets"]):
            assert sample["triplets"][:, ::2].max() < len(sample["boxes"])
            assert sample["triplets"][:, 1].max() < len(RELATIONS)
        for subject, relation, target in sample["triplets"].tolist():
            if RELATIONS[relation] == "left of":
                a, b = sample["boxes"][subject], sample["boxes"][target]
                assert a[0] + a[2] < b[0] + b[2] + 0.1 * SIZE


def test_captions_and_questions_come_with_pictures() -> None:
    for sample in samples("captions", sentences="4"):
        assert len(sample["captions"].splitlines()) == 4
        assert sample["captions"].startswith(sample["caption"])
    assert all(sample["question"].endswith("?") for sample in samples("questions"))


def test_a_faultless_sensor_changes_nothing() -> None:
    import numpy as np

    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Sensor()(image, np.random.default_rng(0)), image, atol=1e-6)
    grey = Sensor(colour=0.0)(image, np.random.default_rng(0))
    assert torch.allclose(grey[0], grey[2])
