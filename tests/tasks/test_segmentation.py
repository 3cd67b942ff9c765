"""The task `segmentation`: its metrics against torchmetrics and a naive loop, and what it makes of data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.report.predictions import write_predictions
from pinakes.tasks.segmentation import COLOURS, TASK, SegmentationMeter, confusion_matrix, overlaid

NAMES = ("ground", "tree", "car", "sky", "boat")
INFO = DataInfo(3, (8, 9), NAMES)


def maps(seed: int = 0, count: int = 7, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Truth, with pixels that have no class, and answers that are right in half of the pixels."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(-1, classes, (count, 8, 9), generator=generator)
    other = torch.randint(0, classes, (count, 8, 9), generator=generator)
    return truth, torch.where(
        (torch.rand(truth.shape, generator=generator) < 0.5) & (truth >= 0), truth, other
    )


def metered(truth: Tensor, answer: Tensor, names: tuple[str, ...] = NAMES) -> SegmentationMeter:
    meter = SegmentationMeter(names)
    for start in range(0, len(truth), 3):
        meter.update({"semantic": truth[start : start + 3]}, {"semantic": answer[start : start + 3]})
    return meter


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_those_of_torchmetrics(seed: int) -> None:
    truth, answer = maps(seed)
    meter = metered(truth, answer, NAMES[:4])
    found = meter.compute()
    stated: dict[str, Any] = {"num_classes": 4, "ignore_index": -1}
    assert torch.equal(meter.confusion, multiclass_confusion_matrix(answer, truth, **stated))
    iou = multiclass_jaccard_index(answer, truth, average="none", **stated)
    for number, name in enumerate(NAMES[:4]):
        assert found.groups[name]["iou"] == pytest.approx(float(iou[number]), abs=1e-6)
    expected = {
        "miou": iou.mean(),
        "accuracy": multiclass_accuracy(answer, truth, average="micro", **stated),
        "class_accuracy": multiclass_accuracy(answer, truth, average="macro", **stated),
        "fwiou": multiclass_jaccard_index(answer, truth, average="weighted", **stated),
    }
    assert sorted(found.metrics) == sorted(expected)
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(float(value), abs=1e-6), name


@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_a_naive_loop_where_classes_are_missing(seed: int) -> None:
    truth, answer = maps(seed, classes=4)
    truth[truth == 1] = 0
    answer[answer == 2] = 0
    found = metered(truth, answer).compute()
    pairs = [(int(t), int(a)) for t, a in zip(truth.flatten(), answer.flatten(), strict=True) if t >= 0]
    iou, recall, weighted = {}, {}, 0.0
    for number in range(len(NAMES)):
        both = sum(t == a == number for t, a in pairs)
        either = sum(number in (t, a) for t, a in pairs)
        there = sum(t == number for t, _ in pairs)
        if either:
            iou[NAMES[number]] = both / either
            weighted += there / len(pairs) * both / either
        if there:
            recall[NAMES[number]] = both / there
    assert set(iou) == {"ground", "tree", "car", "sky"}
    assert set(recall) == {"ground", "car", "sky"}
    assert {name: group["iou"] for name, group in found.groups.items()} == pytest.approx(iou)
    assert {
        name: group["class_accuracy"] for name, group in found.groups.items() if "class_accuracy" in group
    } == pytest.approx(recall)
    assert found.metrics == pytest.approx(
        {
            "miou": np.mean(list(iou.values())),
            "accuracy": np.mean([t == a for t, a in pairs]),
            "class_accuracy": np.mean(list(recall.values())),
            "fwiou": weighted,
        }
    )


def test_groups_count_the_images_that_show_a_class() -> None:
    truth = torch.zeros(5, 4, 4, dtype=torch.int64)
    truth[1, 0, 0] = truth[4] = 2
    truth[2] = -1
    groups = metered(truth, truth).compute().groups
    assert {name: group["images"] for name, group in groups.items()} == {"ground": 3, "car": 2}


def test_answers_at_pixels_without_a_class_count_for_nothing() -> None:
    truth, answer = maps()
    other = torch.where(truth < 0, (answer + 1) % 4, answer)
    assert metered(truth, answer).compute() == metered(truth, other).compute()


@pytest.mark.parametrize(
    ("truth", "answer", "message"),
    [
        ([0, 5], [0, 0], "the truth has the class 5, but there are 5"),
        ([0, 1], [0, -1], "prediction has the class -1"),
    ],
)
def test_classes_that_there_are_not_are_refused(truth: list[int], answer: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"semantic: .*{message}"):
        confusion_matrix(torch.tensor(truth), torch.tensor(answer), 5)


def test_images_without_any_class_cannot_be_judged() -> None:
    nothing = torch.full((2, 4, 4), -1)
    with pytest.raises(UserError, match="no pixel of the test images has one"):
        metered(nothing, nothing + 1).compute()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits?n=20", r"needs the class of every pixel; give a folder with images/x.jpg and masks/x.png"),
        ("textures?size=32&n=8", r"needs the class of every pixel"),
    ],
)
def test_data_without_classes_of_pixels_are_refused(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(spec, task="segmentation")


def test_samples_whose_classes_are_not_named_are_refused() -> None:
    sample = {"image": torch.rand(3, 8, 8), "semantic": torch.zeros(8, 8, dtype=torch.int64)}
    with pytest.raises(UserError, match="at least two classes, but 0 are named"):
        Pixelwise().fit(([sample], DataInfo(3, (8, 8))), steps=1)


@pytest.mark.parametrize("spec", [TASK.default_data, TASK.example_data])
def test_built_in_data_are_as_stated(spec: str) -> None:
    data = load_data(spec, task="segmentation")
    batch = TASK.collate([data.test[0], data.test[1]])
    TASK.check_batch(batch, data.info, truth=True)
    assert batch["semantic"].max() < len(data.classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic": torch.full((2, 8, 9), 5)}, "semantic: expected values from 0 to 4, got 5"),
        ({"semantic": torch.full((2, 8, 9), -1)}, "semantic: expected values from 0"),
        ({"semantic": torch.zeros(2, 8, 8, dtype=torch.int64)}, "semantic: expected 9 width, got 8"),
        ({"probabilities": torch.rand(2, 4, 8, 9)}, "probabilities: expected 5 classes, got 4"),
        ({"probabilities": torch.rand(2, 5, 8, 9) + 1}, "probabilities: expected values from 0.0 to 1.0"),
    ],
)
def test_predictions_that_are_not_as_stated_are_named(changes: dict[str, Tensor], message: str) -> None:
    prediction = {"semantic": torch.zeros(2, 8, 9, dtype=torch.int64), **changes}
    with pytest.raises(ValueError, match=message):
        TASK.check_prediction({"image": torch.rand(2, 3, 8, 9)}, prediction, INFO)


def test_pictures_show_the_classes_and_the_wrong_pixels() -> None:
    semantic = torch.zeros(8, 9, dtype=torch.int64)
    semantic[:2], semantic[7] = 3, -1
    answer = torch.zeros(8, 9, dtype=torch.int64)
    answer[0] = 3
    sample = {"image": torch.rand(1, 8, 9), "semantic": semantic, "path": "images/a.png"}
    image, truth = TASK.draw_sample(sample, INFO)
    assert (image.caption, truth.caption) == ("a.png", "ground (grey), sky (yellow)")
    assert np.array_equal(truth.image[7], image.image[7])
    found, wrong = TASK.draw_prediction(sample, {"semantic": answer})
    assert (found.caption, wrong.caption) == ("grey 88%, yellow 12%", "14.3% wrong")
    assert np.array_equal(found.image[0], truth.image[0])
    assert ((wrong.image == COLOURS["red"]).all(-1).nonzero()[0] == 1).all()
    assert all(panel.image.shape == (8, 9, 3) for panel in (image, truth, found, wrong))


def test_without_truth_a_legend_says_what_the_colours_mean() -> None:
    names = tuple(f"class {number}" for number in range(23))
    _, legend = TASK.draw_sample({"image": torch.rand(3, 8, 9)}, DataInfo(3, (8, 9), names))
    assert legend.image.shape[0] == 160
    for colour in COLOURS.values():
        assert (legend.image == colour).all(-1).sum() >= 100
    (panel,) = TASK.draw_prediction({"image": torch.rand(3, 8, 9)}, {"semantic": torch.full((8, 9), 22)})
    assert panel.caption == "green 100%"


def test_every_colour_is_another_and_they_begin_anew_after_the_last() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
    black = np.zeros((1, 2, 3), dtype=np.uint8)
    drawn = overlaid(black, np.array([[1, 1 + len(COLOURS)]]))
    assert np.array_equal(drawn[0, 0], drawn[0, 1])


class Pixelwise(Method):
    """A linear classifier of the pixels' colours."""

    task_name = "segmentation"

    def __init__(self) -> None:
        super().__init__()

    def build(self, info: DataInfo) -> None:
        self.head = nn.Conv2d(info.channels, len(info.classes), 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return functional.cross_entropy(self.head(batch["image"]), batch["semantic"], ignore_index=-1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        probabilities = self.head(batch["image"]).softmax(1)
        return {"semantic": probabilities.argmax(1), "probabilities": probabilities}


@pytest.fixture
def meadow(tmp_path: Path) -> Path:
    """Twelve images of one of three colours on each side; a column between them has no class."""
    colours = np.array([[220, 40, 40], [40, 200, 40], [40, 40, 220]], dtype=np.uint8)
    for folder in ("images", "masks"):
        (tmp_path / "meadow" / folder).mkdir(parents=True)
    for i in range(12):
        mask = np.repeat(np.array([[i % 3] * 8 + [255] + [(i + 1) % 3] * 7], dtype=np.uint8), 16, axis=0)
        Image.fromarray(colours[mask % 3]).save(tmp_path / f"meadow/images/{i}.png")
        Image.fromarray(mask).save(tmp_path / f"meadow/masks/{i}.png")
    (tmp_path / "meadow/classes.txt").write_text("poppy\ngrass\nwater\n")
    return tmp_path / "meadow"


def test_a_method_learns_and_is_judged_on_a_folder_of_masks(meadow: Path, tmp_path: Path) -> None:
    method = Pixelwise().fit(meadow, epochs=30, batch_size=4, device="cpu")
    found = method.evaluate_fully(meadow)
    assert found.metrics == {"miou": 1.0, "accuracy": 1.0, "class_accuracy": 1.0, "fwiou": 1.0}
    assert sorted(found.groups) == ["grass", "poppy", "water"]
    written = write_predictions(method, sorted((meadow / "images").iterdir())[:2], tmp_path / "found")
    line = json.loads(written.file.read_text().splitlines()[0])
    saved = np.load(written.folder / line["semantic"])
    assert saved.shape == (16, 16)
    assert set(np.unique(saved)) <= {0, 1, 2}
    assert (written.folder / line["picture"]).is_file()
