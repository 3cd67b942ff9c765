"""The metrics of anomaly detection against scikit-learn and against a naive loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.tasks.anomaly import TASK, AnomalyMeter, PixelCurves

INFO = DataInfo(3, (16, 16), ("normal", "anomalous"))


def metered(scores: np.ndarray, labels: np.ndarray, batch_size: int = 7) -> dict[str, float]:
    meter = AnomalyMeter()
    for start in range(0, len(scores), batch_size):
        part = slice(start, start + batch_size)
        meter.update({"label": torch.tensor(labels[part])}, {"score": torch.tensor(scores[part])})
    return meter.compute().metrics


def naive_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3) -> float:
    regions = [
        (i, label(m, connectivity=2) == r) for i, m in enumerate(masks) for r in range(1, label(m).max() + 1)
    ]
    rates, overlaps = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        above = maps >= threshold
        rates.append(above[~masks].mean())
        overlaps.append(np.mean([above[i][region].mean() for i, region in regions]))
    x = np.linspace(0, limit, 20001)
    return float(np.trapezoid(np.interp(x, rates, overlaps), x) / limit)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 60), st.integers(0, 2**31), st.sampled_from([1, 3, 1000]))
def test_image_metrics_equal_those_of_scikit_learn(count: int, seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    scores = (rng.integers(0, levels, count) / levels * 40 - 7).astype(np.float32)
    found = metered(scores, labels)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert found["ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
    best = max(f1_score(labels, scores >= threshold) for threshold in scores)
    assert found["f1"] == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, -3.0])
def test_pixel_metrics_equal_a_naive_loop(offset: float) -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((5, 16, 16), dtype=bool)
    masks[1, 2:5, 3:9] = masks[1, 10:14, 10:12] = masks[3, 6:7, 1:15] = masks[4, 0:2, 0:2] = True
    maps = (rng.normal(size=masks.shape) + masks + offset).astype(np.float32)
    curves = PixelCurves()
    for part in (slice(0, 2), slice(2, 5)):
        curves.update(torch.tensor(maps[part]), torch.tensor(masks[part]))
    assert curves.regions == 4
    assert curves.auroc() == pytest.approx(roc_auc_score(masks.ravel(), maps.ravel()), abs=1e-3)
    assert curves.aupro() == pytest.approx(naive_aupro(maps, masks), abs=1e-3)


def test_a_perfect_map_has_aupro_one_and_a_constant_one_half_the_limit() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 2:4, 2:4] = True
    perfect, constant = PixelCurves(), PixelCurves()
    perfect.update(mask.float(), mask)
    constant.update(torch.ones(1, 8, 8), mask)
    assert perfect.aupro() == pytest.approx(1.0)
    assert constant.aupro() == pytest.approx(0.15)
    assert constant.auroc() == pytest.approx(0.5)


def test_groups_judge_each_kind_against_all_normal_images() -> None:
    meter = AnomalyMeter()
    meter.update(
        {"label": torch.tensor([0, 0, 1, 1]), "kind": ["good", "good", "crack", "hole"]},
        {"score": torch.tensor([0.1, 0.3, 0.9, 0.2])},
    )
    groups = meter.compute().groups
    assert groups["crack"]["auroc"] == 1.0
    assert groups["hole"]["auroc"] == 0.5
    assert groups["hole"]["images"] == 1


def test_images_of_one_label_cannot_be_judged() -> None:
    with pytest.raises(UserError, match="both normal and anomalous"):
        metered(np.ones(3, dtype=np.float32), np.zeros(3, dtype=np.int64))


def test_pictures_have_the_size_of_the_image() -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:8, 4:8] = True
    sample = {"image": torch.rand(3, 16, 16), "mask": mask, "kind": "crack"}
    drawn = TASK.draw_sample(sample, INFO)
    drawn += TASK.draw_prediction(sample, {"score": torch.tensor(0.5), "map": torch.rand(16, 16)})
    assert [panel.caption for panel in drawn] == ["crack", "truth", "score 0.5"]
    assert all(panel.image.shape == (16, 16, 3) and panel.image.dtype == np.uint8 for panel in drawn)


def test_a_few_anomalies_of_the_seen_kinds_move_to_training() -> None:
    whole = load_data("textures?size=32&n=120", task="anomaly")
    data = load_data("textures?size=32&n=120&seen=scratch,stain&shots=3", task="anomaly")
    moved = [kind for kind, label in zip(data.train.kinds, data.train.labels, strict=True) if label]
    assert sorted(moved) == ["scratch"] * 3 + ["stain"] * 3
    assert whole.test is not None
    assert data.test is not None
    assert sorted([*data.test.paths, *data.train.paths]) == sorted([*whole.test.paths, *whole.train.paths])
    seen = data.test.fields["seen"]
    assert [kind in ("scratch", "stain") for kind in data.test.kinds] == list(seen)
    TASK.check_batch(TASK.collate([data.test[0], data.test[1]]), data.info, truth=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("seen=dent", "no anomalous test image is of the kind 'dent'"),
        ("seen=scratch&shots=0", "shots=1 or more"),
        ("shots=3", "give seen=KIND"),
        ("seen=scratch&shots=x", "'shots' must be a whole number"),
        ("unknown=scratch", "has no data option 'unknown'"),
    ],
)
def test_seen_kinds_that_cannot_be_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(f"textures?size=32&n=40&{words}", task="anomaly")


def test_seen_and_unseen_kinds_are_judged_apart() -> None:
    meter = AnomalyMeter()
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    scores = torch.tensor([0.1, 0.2, 0.6, 0.9, 0.8, 0.5, 0.0])
    seen = torch.tensor([False, False, False, True, True, False, False])
    alarms = scores > 0.55
    meter.update({"label": labels, "seen": seen}, {"score": scores, "anomalous": alarms})
    metrics = meter.compute().metrics
    assert metrics["auroc_seen"] == 1.0
    assert metrics["auroc_unseen"] == pytest.approx(roc_auc_score([0, 0, 0, 1, 1], [0.1, 0.2, 0.6, 0.5, 0.0]))
    assert (metrics["false_alarms"], metrics["caught"]) == pytest.approx((1 / 3, 1 / 2))
