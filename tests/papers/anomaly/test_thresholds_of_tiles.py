"""Thresholds of methods that are fitted on tiles are those of whole images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pinakes
from pinakes.data.tiles import TiledImages
from pinakes.data.views import View, groups_of
from pinakes.engine.plan import TrainingPlan


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "parts/train/good"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return f"mvtec:{tmp_path / 'parts'}?size=32&tile=32&overlap=8"


def test_tiles_of_one_image_are_never_fitted_and_held_out_both(spec: str) -> None:
    data = pinakes.load_data(spec, task="anomaly")
    assert isinstance(data.train, TiledImages)
    fitted, held = pinakes.create("patchcore").divide(data, TrainingPlan(hold_out=0.2))
    assert held is not None
    assert not set(groups_of(fitted.train)) & set(groups_of(held))
    assert len(set(groups_of(fitted.train))) + len(set(groups_of(held))) == 12
    assert len(fitted.train) + len(held) == len(data.train)


def test_the_threshold_is_one_of_images_not_of_tiles(spec: str) -> None:
    detector = pinakes.create("patchcore").fit(spec, hold_out=0.2)
    data = pinakes.load_data(spec, task="anomaly")
    _, held = detector.divide(data, TrainingPlan(hold_out=0.2))
    assert isinstance(held, View)
    scores = torch.cat([detector.predict(held[index]["image"])["score"] for index in range(len(held))])
    groups = groups_of(held)
    worst = sorted(
        max(float(score) for score, each in zip(scores, groups, strict=True) if each == name)
        for name in set(groups)
    )
    torch.testing.assert_close(detector.held_out_scores, torch.tensor(worst), rtol=1e-4, atol=1e-5)


def test_samples_of_sets_without_groups_are_each_their_own() -> None:
    one, other = [{"n": 0}, {"n": 1}], [{"n": 2}]
    assert groups_of(View([(one, 0), (other, 0), (one, 1)])) == ("0", "1", "2")
