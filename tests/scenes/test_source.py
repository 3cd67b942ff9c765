"""Scenes as data: what loading gives, determinism, and what is said of bad specs."""

import pytest
import torch
from torch.utils.data import DataLoader

from pinakes.data.base import Sample, TaskData
from pinakes.data.loading import load_data
from pinakes.data.sources import Request
from pinakes.errors import UserError
from pinakes.scenes.labels import LABELS
from pinakes.scenes.source import SceneSamples, load


def _load(what: str, size: int = 16, seed: int = 0, channels: int = 3, **words: str) -> TaskData:
    return load(Request(f"scenes:{what}", what, (size, size), seed, channels), **words)


def _same(a: Sample, b: Sample) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())


@pytest.mark.parametrize("what", LABELS)
def test_every_label_gives_pictures_and_is_the_same_in_any_order(what: str) -> None:
    words = {"n": "8"} | ({"frames": "2"} if what == "video" else {})
    data = _load(what, **words)
    assert [len(part) for _, part in data.splits()] == [8, 2, 2]
    first = [data.train[i] for i in range(8)]
    for sample in first:
        shown = next(v for k, v in sample.items() if k.startswith("image") or k == "frames")
        assert shown.dtype == torch.float32
        assert 0 <= shown.min() < shown.max() <= 1
        assert all(torch.isfinite(v.float()).all() for v in sample.values() if isinstance(v, torch.Tensor))
    again = _load(what, **words).train
    assert all(_same(again[i], first[i]) for i in reversed(range(8)))


def test_two_workers_give_the_samples_of_one() -> None:
    samples = SceneSamples("segmentation", "train", 34, (16, 16))
    alone = [samples[i] for i in range(34)]
    fresh = SceneSamples("segmentation", "train", 34, (16, 16))
    loader = DataLoader(fresh, batch_size=None, num_workers=2)
    assert all(_same(a, b) for a, b in zip(alone, loader, strict=True))


def test_more_samples_leave_the_first_as_they_were() -> None:
    few, many = (SceneSamples("depth", "train", n, (16, 16)) for n in (16, 48))
    assert all(_same(few[i], many[i]) for i in range(0, 16, 5))


def test_splits_and_seeds_differ() -> None:
    data, other = _load("depth", n="4"), _load("depth", n="4", seed=1)
    assert data.test is not None
    assert not _same(data.train[0], data.test[0])
    assert not torch.equal(data.train[0]["image"], other.train[0]["image"])
    assert data.fingerprint() != other.fingerprint()


def test_scenes_are_loaded_by_spec() -> None:
    data = load_data("scenes:anomaly?size=32&n=8&product=board", seed=3)
    assert data.spec == "scenes:anomaly?size=32&n=8&product=board&seed=3"
    assert data.test is not None
    assert data.test[1]["mask"].shape == (32, 32)
    assert data.classes == ("normal", "anomalous")


def test_samples_are_not_shared() -> None:
    samples = SceneSamples("depth", "train", 4, (16, 16))
    samples[0]["image"].zero_()
    samples[0]["depth"].zero_()
    assert samples[0]["image"].mean() > 0.1
    assert samples[0]["depth"].min() > 0


def test_grey_pictures_have_one_channel() -> None:
    assert _load("depth", n="2", channels=1).train[0]["image"].shape == (1, 16, 16)


def test_size_may_be_oblong() -> None:
    data = load(Request("scenes:depth", "depth", (32, 48)), n="2")
    assert data.train[0]["image"].shape == (3, 32, 48)
    assert data.size == (32, 48)


@pytest.mark.parametrize(
    ("what", "words", "said"),
    [
        ("dept", {}, "did you mean 'depth'"),
        ("", {}, "needs a label; choose from .*depth"),
        ("depth", {"thing": "3"}, "no option 'thing'; did you mean 'things'"),
        ("depth", {"things": "many"}, "'things' must be a whole number"),
        ("depth", {"things": "0"}, "'things' must be at least 1"),
        ("depth", {"things": "99"}, "no room for"),
        ("depth", {"textures": "photos"}, "did you mean 'photo'"),
        ("depth", {"n": "0"}, "'n' must be at least 1"),
        ("anomaly", {"product": "flang"}, "did you mean 'flange'"),
        ("anomaly", {"defects": "scratch,dints"}, "'dints'"),
    ],
)
def test_bad_specs_name_what_is_valid(what: str, words: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        _load(what, **words)


def test_tiny_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="at least 16, got 8 x 8"):
        _load("depth", size=8)
