import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassF1Score,
)

import pinakes
from pinakes.data.base import DataInfo
from pinakes.data.views import labels_of
from pinakes.tasks.classification import TASK, answer, calibration_error

NAMES = tuple("abcdefgh")


def metered(logits: torch.Tensor, label: torch.Tensor, parts: int = 3) -> dict[str, float]:
    meter = TASK.meter(DataInfo(classes=NAMES))
    for some, truth in zip(logits.chunk(parts), label.chunk(parts), strict=True):
        meter.update({"label": truth}, answer(some, NAMES))
    return meter.compute().metrics


@pytest.fixture
def answered() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 8, generator=generator)
    return logits, torch.randint(0, 8, (200,), generator=generator)


def test_metrics_over_batches_are_those_of_torchmetrics(answered: tuple[torch.Tensor, torch.Tensor]) -> None:
    logits, label = answered
    found = metered(logits, label)
    expected = {
        "accuracy": MulticlassAccuracy(8, average="micro"),
        "top5": MulticlassAccuracy(8, average="micro", top_k=5),
        "macro_f1": MulticlassF1Score(8, average="macro"),
        "calibration_error": MulticlassCalibrationError(8, n_bins=15),
    }
    for name, metric in expected.items():
        assert found[name] == pytest.approx(float(metric(logits.softmax(1), label)), abs=1e-5), name


def test_top5_is_left_out_where_five_classes_are_all() -> None:
    meter = TASK.meter(DataInfo(classes=("a", "b")))
    meter.update({"label": torch.tensor([0])}, answer(torch.tensor([[1.0, 0.0]]), ("a", "b")))
    assert set(meter.compute().metrics) == {"accuracy", "macro_f1", "calibration_error"}


def test_accuracy_is_broken_down_by_class() -> None:
    meter = TASK.meter(DataInfo(classes=("a", "b", "never seen")))
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]])
    meter.update({"label": torch.tensor([0, 1, 1])}, answer(logits, ("a", "b", "never seen")))
    groups = meter.compute().groups
    assert groups == {"a": {"accuracy": 1.0, "images": 1.0}, "b": {"accuracy": 0.5, "images": 2.0}}


def test_a_classifier_as_sure_as_it_is_right_is_calibrated() -> None:
    confidence = torch.full((10,), 0.7)
    right = torch.tensor([1] * 7 + [0] * 3)
    assert calibration_error(confidence, right) == pytest.approx(0.0, abs=1e-6)


def test_an_image_without_a_label_cannot_be_judged_on() -> None:
    meter = TASK.meter(DataInfo(classes=("a", "b")))
    with pytest.raises(pinakes.UserError, match="label of every test image"):
        meter.update({"label": torch.tensor([-1])}, answer(torch.rand(1, 2), ("a", "b")))


def test_data_without_classes_is_refused() -> None:
    with pytest.raises(pinakes.UserError, match="a folder for each"):
        pinakes.load_data("scenes:depth?n=4&size=16", task="classification")


@pytest.mark.parametrize(("words", "kept"), [("0.25", 10), ("3", 30), ("1.0", 40)])
def test_labelled_keeps_the_labels_of_a_share_or_a_number_of_each_class(words: str, kept: int) -> None:
    data = pinakes.load_data(f"digits?n=40&labelled={words}", task="classification")
    labels = np.array(labels_of(data.train))
    assert len(labels) == 40
    assert (labels >= 0).sum() == kept
    assert int(data.train[int(np.argmax(labels >= 0))]["label"]) == labels[np.argmax(labels >= 0)]


def test_shots_are_the_training_images_of_each_class_that_are_used() -> None:
    data = pinakes.load_data("digits?n=100&shots=3&labelled=2", task="classification")
    labels = np.array(labels_of(data.train))
    assert len(labels) == 30
    assert (labels >= 0).sum() == 20
    assert sorted(set(labels.tolist())) == list(range(-1, 10))
    assert len(data.test) == len(pinakes.load_data("digits?n=100", task="classification").test)


@pytest.mark.parametrize("words", ["0", "few", "0.5"])
def test_shots_that_are_no_number_of_images_are_refused(words: str) -> None:
    with pytest.raises(pinakes.UserError, match="shots"):
        pinakes.load_data(f"digits?n=40&shots={words}", task="classification")


@pytest.mark.parametrize("words", ["0", "-1", "1.5", "many"])
def test_labelled_that_is_neither_share_nor_number_is_refused(words: str) -> None:
    with pytest.raises(pinakes.UserError, match="labelled"):
        pinakes.load_data(f"digits?n=40&labelled={words}", task="classification")


def test_a_wrong_answer_has_a_red_frame_and_a_right_one_a_green() -> None:
    prediction = {"label": torch.tensor(1), "name": "b", "confidence": torch.tensor(0.5)}
    image = torch.zeros(3, 32, 32)
    (right,) = TASK.draw_prediction({"image": image, "label": torch.tensor(1)}, prediction)
    (wrong,) = TASK.draw_prediction({"image": image, "label": torch.tensor(0)}, prediction)
    assert right.image[0, 0, 1] > right.image[0, 0, 0]
    assert wrong.image[0, 0, 0] > wrong.image[0, 0, 1]
    assert right.caption == "b 0.50"
