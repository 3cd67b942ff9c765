"""Semantic segmentation: name the class of every pixel.

Data come from a folder of images with masks (`masks:PATH`) or are made (`scenes:segmentation`). Pixels of class -1
count for nothing, whatever is answered there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pinakes.data.base import DataInfo, Sample, TaskData
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

NO_CLASS = -1
"""The class of pixels that have none."""

COLOURS = {
    "grey": (169, 169, 169),
    "red": (230, 25, 75),
    "green": (60, 180, 75),
    "yellow": (255, 225, 25),
    "blue": (67, 99, 216),
    "orange": (245, 130, 49),
    "purple": (145, 30, 180),
    "cyan": (66, 212, 244),
    "magenta": (240, 50, 230),
    "lime": (191, 239, 69),
    "pink": (250, 190, 212),
    "teal": (70, 153, 144),
    "lavender": (220, 190, 255),
    "brown": (154, 99, 36),
    "beige": (255, 250, 200),
    "maroon": (128, 0, 0),
    "mint": (170, 255, 195),
    "olive": (128, 128, 0),
    "apricot": (255, 216, 177),
    "navy": (0, 0, 117),
}
"""The colours of the classes, in their order and then anew: Sasha Trubetskoy's simple, distinct colours, grey first."""

_NAMES = tuple(COLOURS)
_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_OPACITY = 0.6
_NAMED = 8
"""How many classes a caption names at most."""
_LINE, _LETTERS = 18, 13
"""Height in pixels of a line of a legend and of its letters."""


def confusion_matrix(
    truth: Int[Tensor, "*pixels"], answer: Int[Tensor, "*pixels"], classes: int
) -> Int[Tensor, "classes classes"]:
    """How many pixels of each class (row) were taken for each class (column).

    Args:
        truth: The class of each pixel; negative ones are not counted.
        answer: The class it was taken for.
        classes: How many classes there are.

    Raises:
        ValueError: If a counted pixel has, or was taken for, a class that there is not.

    Example:
        >>> confusion_matrix(torch.tensor([0, 0, 1, -1]), torch.tensor([0, 1, 1, 1]), 2)
        tensor([[1, 1],
                [0, 1]])
    """
    counted = truth >= 0
    truth, answer = truth[counted], answer[counted]
    for name, values in (("truth", truth), ("prediction", answer)):
        low, high = values.aminmax() if values.numel() else (0, 0)
        if not 0 <= low <= high < max(1, classes):
            raise ValueError(
                f"semantic: the {name} has the class {int(low if low < 0 else high)}, but there are {classes}, "
                "numbered from 0"
            )
    return torch.bincount(truth * classes + answer, minlength=classes**2).reshape(classes, classes)


def intersection_over_union(confusion: Int[Tensor, "classes classes"]) -> Float[Tensor, " classes"]:
    """For each class, pixels that are of it and taken for it over those that are one or the other.

    Args:
        confusion: Pixels by class (row) and by what they were taken for (column).

    Returns:
        float64, 0 to 1; NaN for a class that neither occurs nor is named.

    Source: Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015 (arXiv:1411.4038), section 5,
        with the other metrics of the task.
    """
    hits = confusion.diagonal().double()
    return hits / (confusion.sum(0) + confusion.sum(1) - hits)


class SegmentationMeter(Meter):
    """The metrics from one confusion matrix over all pixels, which is all that is kept."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
        self.images = torch.zeros(len(classes), dtype=torch.int64)

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch with its truth and the prediction for it."""
        answer = prediction["semantic"]
        truth = batch["semantic"].to(answer.device)
        count = len(self.classes)
        self.confusion += confusion_matrix(truth, answer, count).cpu()
        present = torch.zeros(len(truth), count + 1, dtype=torch.bool, device=truth.device)
        present.scatter_(1, truth.flatten(1).clamp(min=NO_CLASS) + 1, True)
        self.images += present[:, 1:].sum(0).cpu()

    def compute(self) -> Evaluation:
        """The metrics over everything taken in; by class, its IoU, the share of it that was found, and its images."""
        of_class = self.confusion.sum(1).double()
        pixels = of_class.sum()
        if pixels == 0:
            raise UserError(
                "data: judging needs pixels with a class, but no pixel of the test images has one"
            )
        iou = intersection_over_union(self.confusion)
        found = self.confusion.diagonal().double() / of_class
        metrics = {
            "miou": float(iou.nanmean()),
            "accuracy": float(self.confusion.diagonal().sum() / pixels),
            "class_accuracy": float(found.nanmean()),
            "fwiou": float((of_class / pixels * iou).nansum()),
        }
        groups = {}
        for number, name in enumerate(self.classes):
            if not iou[number].isnan():
                groups[name] = {"iou": float(iou[number]), "images": int(self.images[number])}
                if of_class[number]:
                    groups[name]["class_accuracy"] = float(found[number])
        return Evaluation(metrics, groups)


class Segmentation(Task):
    """Train on images with a class for every pixel; judge by how the regions of each class overlap."""

    name = "segmentation"
    title = "Semantic segmentation"
    inputs = {"image": IMAGE}
    truth = {
        "semantic": Field(
            "class of each pixel, -1 where it has none", "batch height width", torch.int64, NO_CLASS
        )
    }
    prediction = {
        "semantic": Field("class of each pixel", "batch height width", torch.int64, 0),
        "probabilities": Field(
            "probability of each class at each pixel",
            "batch classes height width",
            low=0.0,
            high=1.0,
            optional=True,
        ),
    }
    metrics = (
        Metric("miou", "mIoU", "intersection over union, mean over the classes that occur or are named"),
        Metric("accuracy", "pixel accuracy", "share of pixels whose class is right"),
        Metric(
            "class_accuracy", "class accuracy", "share of a class's pixels that are right, mean over classes"
        ),
        Metric("fwiou", "fwIoU", "intersection over union, classes weighted by their share of the pixels"),
        Metric("iou", "IoU", "intersection over union of one class; stated by class only"),
    )
    default_data = "scenes:segmentation?size=64&n=400"
    example_data = "scenes:segmentation?size=32&n=16"

    def arrange(self, data: TaskData) -> TaskData:
        """Takes data with a class for every pixel as they are.

        Raises:
            UserError: If the samples have no classes of pixels, or fewer than two are named.
        """
        if "semantic" not in data.train[0]:
            raise UserError(
                f"{data.spec}: segmentation needs the class of every pixel; give a folder with images/x.jpg and "
                "masks/x.png, class numbers as grey values (masks:PATH), or 'scenes:segmentation'"
            )
        if len(data.classes) < 2:
            raise UserError(
                f"{data.spec}: segmentation needs at least two classes, but {len(data.classes)} are named; name all"
            )
        return data

    def check_prediction(self, batch: Batch, prediction: Prediction, info: DataInfo) -> None:
        """Raises ValueError, naming the field, if `prediction` is not as stated, or names a class there is not."""
        super().check_prediction(batch, prediction, info)
        stated = self.prediction["semantic"]
        whole = Field(stated.about, stated.shape, torch.int64, 0, len(info.classes) - 1)
        whole.check("semantic", prediction["semantic"], {})

    def meter(self, info: DataInfo) -> SegmentationMeter:
        """A fresh meter for the task's metrics."""
        return SegmentationMeter(info.classes)

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The image, and the classes over it with their names and colours; without truth, what the colours mean."""
        image = to_pixels(sample["image"])
        name = str(sample.get("path", "")).rpartition("/")[2]
        if "semantic" not in sample:
            return [Panel(image, name), Panel(legend(info.classes, image.shape[0]), "classes")]
        semantic = sample["semantic"].cpu().numpy()
        named = [f"{info.classes[number]} ({_colour(number)})" for number, _ in _by_area(semantic)]
        return [Panel(image, name), Panel(overlaid(image, semantic), _listed(named))]

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The predicted classes over the image and, where the truth is known, the wrong pixels in red."""
        image = to_pixels(sample["image"])
        answer = prediction["semantic"].cpu().numpy()
        shares = [f"{_colour(number)} {share:.0%}" for number, share in _by_area(answer)]
        panels = [Panel(overlaid(image, answer), _listed(shares))]
        if "semantic" in sample:
            truth = sample["semantic"].cpu().numpy()
            wrong = (truth != answer) & (truth >= 0)
            share = wrong.sum() / max(1, (truth >= 0).sum())
            panels.append(Panel(_marked(image, wrong), f"{share:.1%} wrong"))
        return panels


def overlaid(image: np.ndarray, semantic: np.ndarray) -> np.ndarray:
    """The colours of the classes over an image; pixels without a class are left as they are.

    Args:
        image: uint8 (height, width, 3).
        semantic: Class of each pixel (height, width), negative where it has none.

    Returns:
        uint8 (height, width, 3).
    """
    mixed = (1 - _OPACITY) * image + _OPACITY * _PALETTE[semantic % len(_PALETTE)]
    return np.where(semantic[..., None] >= 0, mixed.round(), image).astype(np.uint8)


def legend(classes: Sequence[str], height: int) -> np.ndarray:
    """The names of all classes beside their colours, in as many columns as it takes.

    Args:
        classes: The names.
        height: Height in pixels, raised to 160 so that it can be read.

    Returns:
        uint8 (height, width, 3).
    """
    font = ImageFont.load_default(_LETTERS)
    rows = max(height, 160) // _LINE
    columns = [classes[start : start + rows] for start in range(0, len(classes), rows)]
    widths = [round(max(font.getlength(name) for name in column)) + 2 * _LINE for column in columns]
    page = Image.new("RGB", (max(1, sum(widths)), max(height, 160)), "white")
    pen = ImageDraw.Draw(page)
    for place, column in enumerate(columns):
        left = sum(widths[:place])
        for row, name in enumerate(column):
            colour = COLOURS[_colour(place * rows + row)]
            pen.rectangle((left + 2, row * _LINE + 3, left + 15, row * _LINE + 15), colour, (40, 40, 40))
            pen.text((left + 20, row * _LINE + 1), name, (40, 40, 40), font)
    return np.array(page)


def _marked(image: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The image in pale grey, with the wrong pixels in red."""
    pale = np.repeat(128 + image.mean(axis=2, keepdims=True) / 2, 3, axis=2).round().astype(np.uint8)
    pale[wrong] = COLOURS["red"]
    return pale


def _by_area(semantic: np.ndarray) -> list[tuple[int, float]]:
    """The classes that occur and their shares of the pixels that have one, the largest first."""
    numbers, counts = np.unique(semantic[semantic >= 0], return_counts=True)
    return [(int(numbers[i]), float(counts[i] / counts.sum())) for i in np.argsort(-counts, kind="stable")]


def _colour(number: int) -> str:
    return _NAMES[number % len(_NAMES)]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:_NAMED]) + (", ..." if len(words) > _NAMED else "")


TASK = Segmentation()
