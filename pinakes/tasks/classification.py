"""Image classification: one class for every image.

Any data with classes will do, such as a folder for each. With `?shots=50` fifty training images of every class are
used. With `?labelled=0.1` a tenth of the training images of every class keep their label, or `?labelled=20` twenty of
each; the others stay as images without one, for methods that can learn from these.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.data.spec import to_int
from pinakes.data.views import View, chosen, labels_of
from pinakes.engine.seeds import mix
from pinakes.errors import UserError
from pinakes.tasks.base import (
    IMAGE,
    Batch,
    Evaluation,
    Field,
    Meter,
    Metric,
    Panel,
    Prediction,
    Task,
    to_pixels,
)

UNLABELLED = -1
"""The label of a training image whose class is not known."""
CALIBRATION_BINS = 15
RIGHT, WRONG = (60, 160, 80), (210, 50, 50)


def answer(logits: Float[Tensor, "batch classes"], classes: Sequence[str]) -> Prediction:
    """The prediction that the task states, from logits.

    Args:
        logits: Unnormalised.
        classes: Names of the classes, in the order of the logits.

    Example:
        >>> answer(torch.tensor([[2.0, 0.0]]), ["cat", "dog"])["name"]
        ['cat']
    """
    probabilities = logits.softmax(1)
    confidence, label = probabilities.max(1)
    found: Prediction = {"probabilities": probabilities, "confidence": confidence, "label": label}
    # an exported graph holds numbers only
    return found if torch.compiler.is_exporting() else found | {"name": [classes[i] for i in label.tolist()]}


def calibration_error(
    confidence: Float[Tensor, " images"], right: Int[Tensor, " images"], bins: int = CALIBRATION_BINS
) -> float:
    """How far confidence is from the share of right answers, on average over bins of equal width.

    Args:
        confidence: The probability of the predicted class.
        right: 1 where it is the true class, else 0.
        bins: Number of bins between 0 and 1.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017 (arXiv:1706.04599), equation 3.

    Example:
        >>> round(calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([1, 0])), 6)
        0.4
    """
    return _Calibration(bins).update(confidence, right).error()


class _Calibration:
    """Sums of confidence and of right answers in bins; their difference is all that the error needs."""

    def __init__(self, bins: int) -> None:
        self.gaps = torch.zeros(bins, dtype=torch.float64)
        self.images = 0

    def update(self, confidence: Float[Tensor, " images"], right: Int[Tensor, " images"]) -> "_Calibration":
        place = (confidence.double().cpu() * len(self.gaps)).long().clamp(0, len(self.gaps) - 1)
        self.gaps.index_add_(0, place, confidence.double().cpu() - right.double().cpu())
        self.images += len(confidence)
        return self

    def error(self) -> float:
        return round(float(self.gaps.abs().sum()) / self.images, 12)


class ClassificationMeter(Meter):
    """Counts answers by true and predicted class.

    Args:
        info: The classes.
    """

    def __init__(self, info: DataInfo) -> None:
        self.classes = info.classes
        self.confusion = torch.zeros(len(info.classes), len(info.classes), dtype=torch.int64)
        self.among_five = 0
        self.calibration = _Calibration(CALIBRATION_BINS)

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch with its labels and the prediction for it."""
        truth, found = batch["label"].cpu(), prediction["label"].cpu()
        if (truth < 0).any() or (truth >= len(self.classes)).any():
            raise UserError("data: judging needs the label of every test image, and some have none")
        probabilities = prediction["probabilities"].cpu()
        size = len(self.classes)
        self.confusion += torch.bincount(truth * size + found, minlength=size * size).view(size, size)
        self.calibration.update(prediction["confidence"], (truth == found).long())
        best = probabilities.topk(min(5, size), dim=1).indices
        self.among_five += int((best == truth[:, None]).any(1).sum())

    def compute(self) -> Evaluation:
        """Accuracy, macro-F1, calibration error, top-5 accuracy where there are more than five classes."""
        counts = self.confusion.double()
        images = counts.sum()
        right, truths, answers = counts.diag(), counts.sum(1), counts.sum(0)
        known = truths > 0
        f1 = 2 * right / (truths + answers).clamp(min=1)
        metrics = {"accuracy": float(right.sum() / images)}
        if len(self.classes) > 5:
            metrics["top5"] = self.among_five / float(images)
        metrics |= {"macro_f1": float(f1[known].mean()), "calibration_error": self.calibration.error()}
        groups = {
            name: {"accuracy": float(right[i] / truths[i]), "images": float(truths[i])}
            for i, name in enumerate(self.classes)
            if known[i]
        }
        return Evaluation(metrics, groups)


class Classification(Task):
    """Says of which class an image is."""

    name = "classification"
    title = "Image classification"
    inputs = {"image": IMAGE}
    truth = {
        "label": Field(f"the class, from 0; {UNLABELLED} where it is not known", dtype=torch.int64, low=-1),
        "kind": Field("name of the class", dtype=str, optional=True),
    }
    prediction = {
        "probabilities": Field("probability of each class", "batch classes", low=0.0, high=1.0),
        "label": Field("the most probable class", dtype=torch.int64, low=0),
        "confidence": Field("its probability", low=0.0, high=1.0),
        "name": Field("its name", dtype=str),
    }
    metrics = (
        Metric("accuracy", "Accuracy", "share of images whose most probable class is the true one"),
        Metric("top5", "Top-5", "share of images whose true class is among the five most probable"),
        Metric("macro_f1", "Macro-F1", "harmonic mean of precision and recall, averaged over the classes"),
        Metric(
            "calibration_error",
            "ECE",
            "expected calibration error: distance of confidence from the share of right answers, in 15 bins",
            higher_is_better=False,
        ),
    )
    default_data = "digits"
    example_data = "digits?n=40"
    options = {
        "shots": "training images of each class that are used",
        "labelled": "training images of each class that keep their label, a share or a number",
    }
    confusion = ("label", "label")

    def arrange(self, data: TaskData) -> TaskData:
        """Makes sure that there are classes, and leaves out training images, or their labels, where so wanted.

        Raises:
            UserError: If there are fewer than two classes, or `shots` or `labelled` cannot be used.
        """
        if len(data.classes) < 2 or "label" not in data.train[0]:
            raise UserError(
                f"{data.spec}: classification needs at least two classes; put the images into a folder for each"
            )
        if "shots" in data.wishes:
            data = replace(data, train=_few(data, to_int("shots", data.wishes["shots"])))
        words = data.wishes.get("labelled")
        return data if words is None else replace(data, train=_labelled(data, words))

    def check_test(self, samples: SampleSet) -> None:
        """Wants a label of every test image, where the samples state theirs.

        Raises:
            UserError: If one has none.
        """
        if None in getattr(samples, "labels", ()):
            raise UserError("data: judging needs the label of every test image, and some have none")

    def meter(self, info: DataInfo) -> ClassificationMeter:
        """A fresh meter for the task's metrics."""
        return ClassificationMeter(info)

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The image with its class; of an image without truth, with its file's name."""
        image = to_pixels(sample["image"])
        if "label" not in sample:
            return [Panel(image, str(sample.get("path", "")).rpartition("/")[2])]
        label = int(sample["label"])
        return [Panel(image, "unlabelled" if label < 0 else info.classes[label])]

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The image with the predicted class, on a green frame if it is the true one, else on a red one."""
        caption = f"{prediction['name']} {float(prediction['confidence']):.2f}"
        image = to_pixels(sample["image"])
        if "label" not in sample:
            return [Panel(image, caption)]
        colour = RIGHT if int(prediction["label"]) == int(sample["label"]) else WRONG
        width = max(1, min(image.shape[:2]) // 16)
        framed = np.full_like(image, colour)
        framed[width:-width, width:-width] = image[width:-width, width:-width]
        return [Panel(framed, caption)]


def _few(data: TaskData, shots: int) -> View:
    """So many training images of every class, or all where it has fewer."""
    if shots < 1:
        raise UserError(f"{data.spec}: shots must be 1 or more, got {shots}")
    labels = _labels(data)
    return chosen(data.train, sorted(_some_of_each(labels, len(data.classes), lambda images: shots)))


def _labelled(data: TaskData, words: str) -> View:
    """The training images, of which some of every class keep their label; which ones follows from the spec alone."""
    labels = _labels(data)
    try:
        wanted = float(words)
    except ValueError:
        wanted = 0.0
    if not (0 < wanted <= 1 or (wanted > 1 and wanted.is_integer())):
        raise UserError(
            f"{data.spec}: labelled must be a share above 0 or a whole number of images, got '{words}'"
        )
    # "1" is every image, as a share; one image a class is too few to be meant
    kept = _some_of_each(
        labels, len(data.classes), lambda images: round(wanted * images) if wanted <= 1 else int(wanted)
    )
    return View(
        [(data.train, i) for i in range(len(labels))],
        {"label": [label if i in kept else UNLABELLED for i, label in enumerate(labels)]},
    )


def _labels(data: TaskData) -> list[int]:
    return [UNLABELLED if label is None else label for label in labels_of(data.train)]


def _some_of_each(labels: Sequence[int], classes: int, count: Callable[[int], int]) -> set[int]:
    """Places of images of every class, at least one; `count` says how many of those that it has."""
    rng = np.random.default_rng(mix(len(labels), classes))
    kept: set[int] = set()
    for label in range(classes):
        rows = [i for i, each in enumerate(labels) if each == label]
        kept |= set(rng.permutation(rows)[: max(1, count(len(rows)))].tolist())
    return kept


TASK = Classification()
