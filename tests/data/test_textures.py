import pickle
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from pinakes.data import load_data
from pinakes.data.defects import KINDS, paint
from pinakes.data.photographs import MATERIALS, REGIONS, crop, photograph
from pinakes.tasks import get


def test_every_sample_is_the_same_whenever_and_wherever_it_is_asked_for() -> None:
    data = load_data("textures?size=32&n=16")
    again = pickle.loads(pickle.dumps(load_data("textures?size=32&n=16")))
    for index in (13, 2, 7):
        one, other = data.test[index], again.test[index]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["mask"], other["mask"])
        assert one["path"] == other["path"]
    assert data.fingerprint() == again.fingerprint()
    assert data.fingerprint() != load_data("textures?size=32&n=16&seed=1").fingerprint()


def test_another_seed_gives_other_crops() -> None:
    one, other = (load_data("textures?n=2", seed=seed).train[0]["image"] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_pickled_set_carries_no_pixels() -> None:
    data = load_data("textures?size=256&n=1000&material=all")
    data.train[0]
    assert len(pickle.dumps(data)) < 2000


def test_half_of_the_test_has_defects_of_every_kind_and_training_has_none() -> None:
    data = load_data("textures?size=32&n=24")
    assert set(data.train.kinds) == {"good"}
    assert data.test.kinds.count("good") == 12
    assert {data.test.kinds.count(kind) for kind in KINDS} == {2}
    for part in (data.train, data.test):
        for index, sample in enumerate(part):
            assert sample["label"] == part.labels[index] == sample["mask"].any()
            assert sample["kind"] == part.kinds[index]
            assert sample["path"] == part.paths[index]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("material", MATERIALS)
def test_a_defect_changes_visibly_what_its_mask_marks_and_nothing_else(kind: str, material: str) -> None:
    for seed, size in ((0, (32, 32)), (1, (48, 64)), (2, (96, 96))):
        rng = np.random.default_rng(seed)
        clean, foreign = crop(material, "test", size, rng), crop("gravel", "test", size, rng)
        painted, mask = paint(clean, kind, rng, foreign)
        assert painted.dtype == np.float32
        assert painted.min() >= 0
        assert painted.max() <= 1
        assert np.array_equal(painted[:, ~mask], clean[:, ~mask])
        assert np.abs(painted - clean)[:, mask].mean() > 0.05
        assert 0.001 < mask.mean() < 0.3


def test_no_test_pixel_lies_in_the_training_region() -> None:
    (train_start, train_stop), (test_start, test_stop) = REGIONS["train"], REGIONS["test"]
    assert train_start < train_stop <= test_start < test_stop


def test_crops_stay_in_the_region_of_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    white_left = np.zeros((512, 512, 3), dtype=np.uint8)
    white_left[:, : round(0.6 * 512)] = 255
    monkeypatch.setattr("pinakes.data.photographs.photograph", lambda material: Image.fromarray(white_left))
    rng = np.random.default_rng(0)
    for size in ((32, 32), (64, 64), (192, 192), (400, 300), (20, 90)):
        for _ in range(20):
            assert crop("brick", "train", size, rng).min() > 0.7
            assert crop("brick", "test", size, rng).max() == 0


def test_the_material_can_be_the_class() -> None:
    data = load_data("textures?labels=material&n=10&size=32")
    assert data.classes == tuple(MATERIALS)
    assert [data.train.labels.count(label) for label in range(5)] == [2] * 5
    sample = data.test[7]
    assert "mask" not in sample
    assert sample["kind"] == data.classes[sample["label"]] == "gravel"
    assert sample["path"] == "textures/test/gravel/007"


def test_defects_can_be_painted_on_every_material() -> None:
    data = load_data("textures?material=all&n=120&size=32")
    pairs = {(path.split("/")[2], kind) for path, kind in zip(data.test.paths, data.test.kinds, strict=True)}
    assert len(pairs) == len(MATERIALS) * (len(KINDS) + 1)


def test_grey_crops_have_one_channel() -> None:
    data = load_data("textures?channels=1&material=tissue&n=2&size=16x24")
    assert data.train[0]["image"].shape == (1, 16, 24)
    assert data.test[1]["mask"].shape == (16, 24)


def test_reading_past_the_end_ends_a_loop() -> None:
    data = load_data("textures?n=2&size=16")
    assert len(list(data.train)) == 2
    assert torch.equal(data.train[-1]["image"], data.train[1]["image"])


def test_samples_are_what_the_anomaly_task_states() -> None:
    task = get("anomaly")
    data = load_data("textures?n=4&size=32", task=task)
    task.check_batch(task.collate(list(data.test)), data.info, truth=True)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    photograph.cache_clear()
    for spec in ("textures?labels=material&n=5", "digits?n=10", "faces?n=2"):
        assert len(list(load_data(spec).train)) >= 2
