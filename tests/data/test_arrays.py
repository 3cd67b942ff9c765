import pickle

import pytest
import torch

from pinakes.data import load_data


@pytest.mark.parametrize(("spec", "count"), [("digits", 1797), ("faces", 200)])
def test_splits_are_stratified_disjoint_and_complete(spec: str, count: int) -> None:
    data = load_data(spec)
    parts = dict(data.splits())
    rows = [row for part in parts.values() for row in part.rows]
    assert sorted(rows) == list(range(count))
    for name, share in (("train", 0.6), ("val", 0.2), ("test", 0.2)):
        assert len(parts[name]) == pytest.approx(share * count, abs=len(data.classes))
        shares = [parts[name].labels.count(label) / len(parts[name]) for label in range(len(data.classes))]
        assert max(shares) - min(shares) < 0.02


def test_samples_are_enlarged_and_named() -> None:
    data = load_data("digits?n=20&size=24x40")
    sample = data.test[0]
    assert sample["image"].shape == (3, 24, 40)
    assert 0 <= sample["image"].min() < 0.2 < 0.8 < sample["image"].max() <= 1
    assert sample["kind"] == data.classes[sample["label"]]
    assert sample["path"] == data.test.paths[0] == f"digits/{sample['kind']}/{data.test.rows[0]:04d}"


def test_a_smaller_set_takes_the_classes_in_turn() -> None:
    data = load_data("digits?n=25")
    assert [len(part) for _, part in data.splits()] == [25, 25, 25]
    assert {data.train.labels.count(label) for label in range(10)} == {2, 3}


def test_one_class_can_be_normal() -> None:
    data = load_data("digits?normal=3")
    assert data.classes == ("normal", "anomalous")
    assert set(data.train.kinds) == set(data.val.kinds) == {"3"}
    assert set(data.test.kinds) == set("0123456789")
    assert all(label == (kind != "3") for label, kind in zip(data.test.labels, data.test.kinds, strict=True))
    assert set(load_data("faces?normal=face").train.kinds) == {"face"}


def test_a_pickled_set_carries_no_pixels_and_gives_the_same() -> None:
    data = load_data("faces")
    packed = pickle.dumps(data)
    assert len(packed) < 4000
    assert torch.equal(pickle.loads(packed).train[5]["image"], data.train[5]["image"])


def test_the_fingerprint_tells_sets_apart() -> None:
    specs = ["digits", "digits?seed=1", "digits?size=8", "digits?normal=1", "faces"]
    assert len({load_data(spec).train.fingerprint() for spec in specs}) == len(specs)


def test_the_native_size_keeps_the_pixels() -> None:
    image = load_data("digits?size=8&channels=1").train[0]["image"]
    assert image.shape == (1, 8, 8)
    assert torch.equal(image * 16, (image * 16).round())
