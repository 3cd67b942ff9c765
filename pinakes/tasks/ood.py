"""Out-of-distribution detection: train a classifier on known classes, and tell what belongs to none of them.

Any data with classes will do: some are left out of training, and their test images are the *near* unknown ones. Images
of another set altogether are the *far* ones: photographs of materials that come with the library, unless `?far=` names
a folder or another set.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.data.splits import hold_out
from pinakes.data.views import View, kinds_of, labels_of
from pinakes.errors import UserError, suggest
from pinakes.tasks.anomaly import ALARM_METRICS, alarm_rates, auroc, ranks_of
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
    decision,
    to_pixels,
)

UNKNOWN_SHARE = 0.3
"""Share of the classes that are left out where the user does not say which."""
FAR = "textures?labels=material"
NEITHER = "data: judging needs test images of known and of unknown classes, but all are of one sort"


def false_positive_rate(
    scores: Float[Tensor, " images"], unknown: Int[Tensor, " images"], true_positive_rate: float = 0.95
) -> float:
    """The share of unknown images that pass as known at the threshold that this share of known ones passes.

    Args:
        scores: Higher is stranger.
        unknown: 1 for images of unknown classes, 0 for known.
        true_positive_rate: Share of known images that must pass, above 0 to 1.

    Source: Liang et al., Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks, ICLR
        2018 (arXiv:1706.02690), section 4.2: known images are the positives.

    Example:
        >>> false_positive_rate(torch.tensor([0.1, 0.2, 0.15, 0.9]), torch.tensor([0, 0, 1, 1]))
        0.5
    """
    known = scores[unknown == 0].sort().values
    threshold = known[max(0, int(np.ceil(true_positive_rate * len(known))) - 1)]
    return float((scores[unknown == 1] <= threshold).double().mean())


class OODMeter(Meter):
    """The metrics over all scores, and AUROC by kind and by near and far."""

    def __init__(self) -> None:
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.answers: list[Tensor] = []
        self.unknown: list[Tensor] = []
        self.alarms: list[Tensor] = []
        self.kinds: list[str] = []
        self.distances: list[str] = []

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch with its truth and the prediction for it."""
        self.scores.append(prediction["score"].detach().float().cpu())
        self.labels.append(batch["label"].cpu())
        self.unknown.append(batch["unknown"].cpu())
        self.kinds += batch["kind"]
        self.distances += batch["distance"]
        if "unknown" in prediction:
            self.alarms.append(prediction["unknown"].cpu())
        if "label" in prediction:
            self.answers.append(prediction["label"].cpu())

    def compute(self) -> Evaluation:
        """The metrics over everything taken in, and AUROC of each kind of unknown image against all known ones."""
        scores, unknown = torch.cat(self.scores), torch.cat(self.unknown)
        known = unknown == 0
        if known.all() or not known.any():
            raise UserError(NEITHER)
        metrics = {"auroc": auroc(scores, unknown)}
        distances, kinds = np.array(self.distances), np.array(self.kinds)
        for distance in ("near", "far"):
            chosen = known | torch.from_numpy(distances == distance)
            if not known[chosen].all():
                metrics[f"auroc_{distance}"] = auroc(scores[chosen], unknown[chosen])
        metrics |= {
            "aupr_out": float(binary_average_precision(ranks_of(scores), unknown)),
            "aupr_in": float(binary_average_precision(ranks_of(-scores), 1 - unknown)),
            "fpr95": false_positive_rate(scores, unknown),
        }
        if self.alarms:
            metrics |= alarm_rates(torch.cat(self.alarms), unknown)
        if self.answers:
            right = torch.cat(self.answers) == torch.cat(self.labels)
            metrics["accuracy"] = float(right[known].double().mean())
        groups = {}
        for distance in ("near", "far"):
            for kind in sorted(set(kinds[distances == distance])):
                of_kind = torch.from_numpy((kinds == kind) & (distances == distance))
                chosen = known | of_kind
                groups[f"{distance}: {kind}"] = {
                    "auroc": auroc(scores[chosen], unknown[chosen]),
                    "images": int(of_kind.sum()),
                }
        return Evaluation(metrics, groups)


class OutOfDistribution(Task):
    """Train on images of known classes; judge on known and unknown ones."""

    name = "ood"
    title = "Out-of-distribution detection"
    inputs = {"image": IMAGE}
    truth = {
        "label": Field(
            "class, in the order of the known classes; -1 for unknown ones", "batch", torch.int64, -1
        ),
        "unknown": Field("1 for images of unknown classes, 0 for known", "batch", torch.int64, 0, 1),
        "kind": Field("name of the class, or of what is new", "batch", str),
        "distance": Field(
            '"known"; "near" for unknown classes of the same source, "far" for others', "batch", str
        ),
    }
    prediction = {
        "score": Field("how strange the image is, higher is stranger"),
        "label": Field("the known class it looks most like", "batch", torch.int64, 0, optional=True),
        **decision("unknown", "known"),
    }
    metrics = (
        Metric("auroc", "AUROC", "area under the ROC curve of scores, unknown against known"),
        Metric("auroc_near", "AUROC near", "AUROC on unknown classes of the same source"),
        Metric("auroc_far", "AUROC far", "AUROC on images of another source"),
        Metric("aupr_out", "AUPR out", "average precision with the unknown as positives"),
        Metric("aupr_in", "AUPR in", "average precision with the known as positives"),
        Metric(
            "fpr95", "FPR95", "share of unknown that pass where 95 % of known pass", higher_is_better=False
        ),
        Metric("accuracy", "accuracy", "share of known images that are classified right"),
        *ALARM_METRICS,
    )
    default_data = "digits"
    example_data = "digits?n=40"
    options = {
        "unknown": "classes to leave out of training, with commas, or how many; three in ten by default",
        "far": "data of other images: a folder or a built-in set; materials by default, 'none' for none",
    }
    ranking = ("score", "unknown")

    def arrange(self, data: TaskData) -> TaskData:
        """Leaves classes out of training, and adds far images to the test.

        Data that state their own unknown images (label 1, with the class of each known one as `category`) are taken
        as they say.

        Raises:
            UserError: If there are no classes, fewer than two would be known, or a class is not there.
        """
        if data.test is None:
            raise UserError(f"{data.spec}: has no test images; add a test folder")
        first = data.train[0]
        if "category" in first and data.classes == ("normal", "anomalous"):
            near = _stated(data)
        elif "label" in first and data.classes:
            near = _left_out(data, data.wishes.get("unknown", ""))
        else:
            raise UserError(
                f"{data.spec}: telling unknown from known classes needs classes; put the images into a folder for each"
            )
        far = data.wishes.get("far", FAR)
        return near if far == "none" else _with_far(near, far)

    def check_test(self, samples: SampleSet) -> None:
        """Wants known and unknown images, where the samples state their labels.

        Raises:
            UserError: If all are of one sort.
        """
        unknown = {label == -1 for label in getattr(samples, "labels", (0, -1))}
        if unknown != {True, False}:
            raise UserError(NEITHER)

    def meter(self, info: DataInfo) -> OODMeter:
        """A fresh meter for the task's metrics."""
        return OODMeter()

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The image with its class, and how far from the known ones it is."""
        kind, distance = str(sample.get("kind", "")), str(sample.get("distance", "known"))
        return [Panel(to_pixels(sample["image"]), kind if distance == "known" else f"{kind} ({distance})")]

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The image with its score, on a frame from green for known to red for unknown where scores are shared."""
        image = to_pixels(sample["image"])
        caption = f"score {float(prediction['score']):.3g}"
        if prediction.get("unknown"):
            caption += ", unknown"
        if scale is None:
            return [Panel(image, caption)]
        low, high = scale
        red = min(1.0, max(0.0, (float(prediction["score"]) - low) / max(high - low, 1e-12)))
        framed = image.copy()
        width = max(2, min(image.shape[:2]) // 16)
        inside = np.zeros(image.shape[:2], dtype=bool)
        inside[width:-width, width:-width] = True
        framed[~inside] = (int(40 + 200 * red), int(40 + 160 * (1 - red)), 60)
        return [Panel(framed, caption)]

    def scale(self, predictions: Sequence[Prediction]) -> tuple[float, float]:
        """The ends of the frame's colours: the lowest and the highest score."""
        scores = [float(prediction["score"]) for prediction in predictions]
        return (min(scores), max(scores)) if scores else (0.0, 1.0)


def _left_out(data: TaskData, words: str) -> TaskData:
    """Classes are left out of training and validation; their test images are unknown."""
    classes = data.classes
    unknown = _unknown_classes(data, words)
    known = [name for name in classes if name not in unknown]
    if len(known) < 2:
        raise UserError(f"{data.spec}: leaves {len(known)} classes to train on; at least 2 must be known")
    place = {classes.index(name): label for label, name in enumerate(known)}

    def view(part: SampleSet, *, tested: bool) -> View:
        labels = labels_of(part)
        rows = [i for i, label in enumerate(labels) if tested or label in place]
        found = [place.get(labels[i], -1) for i in rows]  # type: ignore[arg-type]  # a label None is no class
        names = [classes[int(labels[i] or 0)] for i in rows]
        return _view(part, rows, found, names)

    assert data.test is not None
    return replace(
        data,
        layout=f"{data.layout}; unknown: {', '.join(unknown)}",
        train=view(data.train, tested=False),
        val=None if data.val is None else view(data.val, tested=False),
        test=view(data.test, tested=True),
        info=replace(data.info, classes=tuple(known)),
    )


def _unknown_classes(data: TaskData, words: str) -> list[str]:
    """The classes to leave out: those named, or as many as wanted, chosen by their names alone."""
    classes = list(data.classes)
    if words and not (words.isdigit() and words not in classes):
        named = [word.strip() for word in words.split(",")]
        for name in named:
            if name not in classes:
                raise UserError(f"{data.spec}: no class is called '{name}'{suggest(name, classes)}")
        return [name for name in classes if name in named]
    count = int(words) if words else max(1, round(UNKNOWN_SHARE * len(classes)))
    if not 1 <= count <= len(classes) - 2:
        raise UserError(
            f"{data.spec}: of {len(classes)} classes, {count} cannot be unknown; give 1 to {len(classes) - 2}, and "
            "at least three classes"
        )
    return [classes[i] for i in sorted(hold_out(classes, [""] * len(classes), count / len(classes), seed=0))]


def _stated(data: TaskData) -> TaskData:
    """Labels and categories are the data's own; looks at every sample."""
    if "unknown" in data.wishes:
        raise UserError(f"{data.spec}: states itself what is unknown; leave out 'unknown'")
    categories = sorted({int(data.train[i]["category"]) for i in range(len(data.train))})
    place = {category: label for label, category in enumerate(categories)}

    def view(part: SampleSet) -> View:
        samples = [
            (int(part[i]["label"]), int(part[i]["category"]), str(part[i]["kind"])) for i in range(len(part))
        ]
        found = [-1 if strange else place[category] for strange, category, _ in samples]
        names = [kind if strange else f"class {category}" for strange, category, kind in samples]
        return _view(part, range(len(part)), found, names)

    assert data.test is not None
    return replace(
        data,
        train=view(data.train),
        val=None if data.val is None else view(data.val),
        test=view(data.test),
        info=replace(data.info, classes=tuple(f"class {category}" for category in categories)),
    )


def _view(part: SampleSet, rows: Sequence[int], labels: Sequence[int], kinds: Sequence[str]) -> View:
    fields = {
        "label": labels,
        "unknown": [int(label == -1) for label in labels],
        "kind": kinds,
        "distance": ["near" if label == -1 else "known" for label in labels],
    }
    return View([(part, row) for row in rows], fields, keep=("image", "path"))


def _with_far(data: TaskData, spec: str) -> TaskData:
    """Adds as many far images to the test as there are near ones, or all if there are fewer."""
    from pinakes.data import load_data

    far = load_data(spec, size=data.size)
    if far.channels != data.channels:
        mark = "&" if "?" in spec else "?"
        far = load_data(f"{spec}{mark}channels={data.channels}", size=data.size)
    others = far.test if far.test is not None else far.train
    near = data.test
    assert isinstance(near, View)
    wanted = max(1, sum(near.fields["unknown"]))
    rows = np.linspace(0, len(others) - 1, min(wanted, len(others))).round().astype(int).tolist()
    kinds = kinds_of(others)
    fields = {
        "label": [*near.fields["label"], *[-1] * len(rows)],
        "unknown": [*near.fields["unknown"], *[1] * len(rows)],
        "kind": [*near.fields["kind"], *[kinds[i] or far.spec for i in rows]],
        "distance": [*near.fields["distance"], *["far"] * len(rows)],
    }
    picks = [*near.picks, *((others, i) for i in rows)]
    return replace(
        data,
        layout=f"{data.layout}; far: {len(rows)} images of {far.spec}",
        test=View(picks, fields, keep=("image", "path")),
    )


TASK = OutOfDistribution()
