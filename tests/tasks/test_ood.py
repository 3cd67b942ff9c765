"""The task `ood`: its metrics against scikit-learn and naive counts, and what it makes of data."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from pinakes.data import load_data
from pinakes.data.base import DataInfo, TaskData
from pinakes.errors import UserError
from pinakes.tasks.ood import TASK, OODMeter, false_positive_rate


def test_metrics_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(-1, 3, 200)
    scores = (rng.normal(size=200) + (label == -1)).astype(np.float32)
    far = (label == -1) & (rng.random(200) < 0.4)
    distance = np.where(label != -1, "known", np.where(far, "far", "near"))
    answers = rng.integers(0, 3, 200)
    meter = OODMeter()
    for start in range(0, 200, 64):
        part = slice(start, start + 64)
        meter.update(
            {
                "label": torch.tensor(label[part]),
                "unknown": torch.tensor((label[part] == -1).astype(int)),
                "kind": [f"class {each}" for each in label[part]],
                "distance": list(distance[part]),
            },
            {
                "score": torch.tensor(scores[part]),
                "label": torch.tensor(answers[part]),
                "unknown": torch.tensor(scores[part] > 1),
            },
        )
    found = meter.compute()
    unknown = label == -1
    near = ~unknown | (distance == "near")
    expected = {
        "auroc": roc_auc_score(unknown, scores),
        "auroc_near": roc_auc_score(unknown[near], scores[near]),
        "auroc_far": roc_auc_score(unknown[~unknown | far], scores[~unknown | far]),
        "aupr_out": average_precision_score(unknown, scores),
        "aupr_in": average_precision_score(~unknown, -scores),
        "accuracy": (answers == label)[~unknown].mean(),
        "false_alarms": (scores[~unknown] > 1).mean(),
        "caught": (scores[unknown] > 1).mean(),
    }
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-6), name
    assert found.groups["near: class -1"]["images"] == (unknown & ~far).sum()


@pytest.mark.parametrize("seed", range(5))
def test_false_positive_rate_is_that_of_the_lowest_threshold_that_passes_enough_known(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, 60).astype(np.float32)
    unknown = rng.integers(0, 2, 60)
    for wanted in (0.5, 0.95, 1.0):
        known = scores[unknown == 0]
        threshold = min(t for t in np.unique(known) if (known <= t).mean() >= wanted)
        naive = (scores[unknown == 1] <= threshold).mean()
        assert false_positive_rate(torch.tensor(scores), torch.tensor(unknown), wanted) == pytest.approx(
            naive
        )


def test_one_sort_of_image_cannot_be_judged() -> None:
    data = load_data("digits?n=40&far=none", task="ood")
    with pytest.raises(UserError, match="known and of unknown"):
        TASK.check_test(data.train)


def test_named_classes_are_left_out_of_training_and_unknown_in_the_test() -> None:
    data = load_data("digits?unknown=3,7&far=none", task="ood")
    assert data.classes == ("0", "1", "2", "4", "5", "6", "8", "9")
    for part in (data.train, data.val):
        assert part is not None
        assert not {"3", "7"} & set(part.kinds)
    assert data.test is not None
    for label, kind, unknown in zip(
        data.test.labels, data.test.kinds, data.test.fields["unknown"], strict=True
    ):
        assert (label == -1) == (kind in {"3", "7"}) == bool(unknown)
        assert label == -1 or data.classes[label] == kind


def test_without_a_word_three_in_ten_are_unknown_and_materials_are_far() -> None:
    data = load_data("digits?n=40", task="ood")
    assert len(data.classes) == 7
    assert "unknown: " in data.layout
    assert data.test is not None
    distances = data.test.fields["distance"]
    assert {"known", "near", "far"} == set(distances)
    assert distances.count("far") == distances.count("near")
    last = data.test[len(data.test) - 1]
    TASK.check_batch(TASK.collate([data.test[0], last]), data.info, truth=True)


def test_the_same_classes_are_unknown_every_time_and_in_either_colour() -> None:
    first, again = (load_data("digits?n=40&channels=1", task="ood") for _ in range(2))
    assert first.classes == again.classes == load_data("digits?n=40", task="ood").classes
    assert first.fingerprint() == again.fingerprint()
    assert first.test is not None
    assert first.test[len(first.test) - 1]["image"].shape[0] == 1


def test_a_folder_can_be_far(tmp_path: Path) -> None:
    for kind in ("cats", "dogs"):
        (tmp_path / kind).mkdir()
        for i in range(5):
            Image.fromarray(np.full((40, 40, 3), 40 * i, np.uint8)).save(tmp_path / kind / f"{i}.png")
    data = load_data(f"digits?n=40&far={tmp_path}", task="ood")
    assert data.test is not None
    kinds = {k for k, d in zip(data.test.kinds, data.test.fields["distance"], strict=True) if d == "far"}
    assert kinds <= {"cats", "dogs"}
    assert kinds


def test_scenes_say_themselves_what_is_unknown() -> None:
    data = load_data("scenes:ood?n=24&size=32&far=none", task="ood")
    assert data.test is not None
    assert {int(data.test[i]["unknown"]) for i in range(len(data.test))} == {0, 1}
    with pytest.raises(UserError, match="states itself"):
        load_data("scenes:ood?n=24&size=32&unknown=2", task="ood")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits?unknown=eleven", "no class is called 'eleven'"),
        ("digits?unknown=9,1,2,3,4,5,6,7,8", "at least 2 must be known"),
        ("digits?unknown=20", "no class is called|cannot be unknown"),
        ("textures?n=8", "needs classes|at least three"),
        ("digits?seen=3", "the task 'ood' has no data option 'seen'"),
        ("digits?far=nowhere", "nowhere"),
    ],
)
def test_data_that_cannot_serve_say_why(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(spec, task="ood")


def test_pictures_have_the_size_of_the_image_and_say_what_they_show() -> None:
    sample = {"image": torch.rand(3, 32, 32), "kind": "cat", "distance": "near"}
    (panel,) = TASK.draw_sample(sample, DataInfo())
    assert panel.caption == "cat (near)"
    strange, usual = (
        TASK.draw_prediction(sample, {"score": torch.tensor(s), "unknown": torch.tensor(s > 0)}, (-1.0, 1.0))[
            0
        ]
        for s in (1.0, -1.0)
    )
    assert strange.caption.endswith("unknown")
    assert strange.image.shape == (32, 32, 3)
    assert strange.image[0, 0, 0] > usual.image[0, 0, 0]


def test_data_arranged_for_one_task_are_not_taken_for_another() -> None:
    data = load_data("digits?n=40", task="ood")
    assert load_data(data, task="ood") is data
    assert isinstance(data, TaskData)
    with pytest.raises(UserError, match="arranged for the task 'ood'"):
        load_data(data, task="anomaly")
