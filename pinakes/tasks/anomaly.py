"""Anomaly detection: train on normal images, score and locate what is not normal.

In the open-set setting, `?seen=KIND,KIND&shots=10` after any spec with kinds, a few anomalous images of some kinds are
moved from the test to the training images, with label 1. Methods that know no use for them leave them out; all are
judged on kinds seen and unseen apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from skimage.measure import label as connected_components
from skimage.segmentation import find_boundaries
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    binary_precision_recall_curve,
)

from pinakes.data.base import DataInfo, Sample, SampleSet, TaskData
from pinakes.data.spec import to_int
from pinakes.data.splits import hold_out
from pinakes.data.views import View, kinds_of, labels_of
from pinakes.errors import UserError, suggest
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

FALSE_POSITIVE_LIMIT = 0.3
ONE_LABEL = (
    "data: judging needs both normal and anomalous test images, but all have one label; add the other kind"
)


def best_f1(scores: Float[Tensor, " images"], labels: Int[Tensor, " images"]) -> float:
    """The largest F1 over all thresholds, with anomalous as the positive class."""
    precision, recall, _ = binary_precision_recall_curve(scores, labels)
    return float((2 * precision * recall / (precision + recall).clamp(min=1e-12)).max())


class PixelCurves:
    """Pixel AUROC and AUPRO from streamed maps, in fixed memory.

    Scores are counted in bins of their floating-point bits (sign, exponent and 11 bits of mantissa), which keep
    their order to a relative 2^-11; each bin holds the weight of normal pixels, of anomalous pixels, and of
    anomalous pixels divided by the area of their connected region, so that every region weighs one.

    Source: AUPRO: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.1: per-region
        overlap against the false positive rate, integrated to 0.3 and divided by 0.3.
    """

    DROPPED_BITS = 12

    def __init__(self) -> None:
        self.bins = np.zeros((3, 2 ** (32 - self.DROPPED_BITS)))
        self.regions = 0

    def update(
        self, score_map: Float[Tensor, "batch height width"], mask: Bool[Tensor, "batch height width"]
    ) -> None:
        """Takes in a batch of maps with their truth."""
        bins = self._bin(score_map.detach().float().cpu().numpy())
        truth = mask.cpu().numpy()
        self._count(0, bins[~truth])
        for one, region_mask in zip(bins, truth, strict=True):
            if not region_mask.any():
                continue
            regions = connected_components(region_mask, connectivity=2)
            inside = regions[region_mask]
            self.regions += int(regions.max())
            self._count(1, one[region_mask])
            self._count(2, one[region_mask], 1.0 / np.bincount(inside)[inside])

    def auroc(self) -> float:
        """Area under the ROC curve of pixels."""
        return self._area(self.bins[1], limit=1.0)

    def aupro(self) -> float:
        """Area under the per-region-overlap curve up to a false positive rate of 0.3, from 0 to 1."""
        return self._area(self.bins[2], limit=FALSE_POSITIVE_LIMIT)

    def _bin(self, scores: np.ndarray) -> np.ndarray:
        bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)
        ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + 2**31
        return ordered >> self.DROPPED_BITS

    def _count(self, row: int, bins: np.ndarray, weights: np.ndarray | None = None) -> None:
        found, position = np.unique(bins, return_inverse=True)
        self.bins[row, found] += np.bincount(position, weights=weights)

    def _area(self, positives: np.ndarray, limit: float) -> float:
        used = np.flatnonzero(self.bins[0] + positives)[::-1]
        false_rate = np.concatenate([[0.0], np.cumsum(self.bins[0][used])])
        true_rate = np.concatenate([[0.0], np.cumsum(positives[used])])
        if false_rate[-1] == 0 or true_rate[-1] == 0:
            return float("nan")
        false_rate, true_rate = false_rate / false_rate[-1], true_rate / true_rate[-1]
        end = np.interp(limit, false_rate, true_rate) if limit < 1 else true_rate[-1]
        inside = false_rate <= limit
        x, y = np.append(false_rate[inside], limit), np.append(true_rate[inside], end)
        return float(np.trapezoid(y, x) / limit)


class AnomalyMeter(Meter):
    """Image metrics over all scores, pixel metrics where both masks and maps exist, image metrics by kind.

    Where the batches say which kinds of anomaly were seen in training, AUROC of the seen and of the unseen apart.
    """

    def __init__(self) -> None:
        self.scores: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.kinds: list[str] = []
        self.seen: list[Tensor] = []
        self.alarms: list[Tensor] = []
        self.pixels: PixelCurves | None = None

    def update(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in one batch with its truth and the prediction for it."""
        self.scores.append(prediction["score"].detach().float().cpu())
        self.labels.append(batch["label"].cpu())
        self.kinds += batch.get("kind", ["anomalous" if y else "normal" for y in batch["label"]])
        if "anomalous" in prediction:
            self.alarms.append(prediction["anomalous"].cpu())
        if "seen" in batch:
            self.seen.append(batch["seen"].cpu())
        if "map" in prediction and "mask" in batch:
            self.pixels = self.pixels or PixelCurves()
            self.pixels.update(prediction["map"], batch["mask"].cpu())

    def compute(self) -> Evaluation:
        """The metrics over everything taken in, and image AUROC and AP of each kind against the normal images."""
        scores, labels = torch.cat(self.scores), torch.cat(self.labels)
        normal = labels == 0
        if normal.all() or not normal.any():
            raise UserError(ONE_LABEL)
        metrics = image_metrics(scores, labels)
        if self.seen:
            seen = torch.cat(self.seen)
            for name, chosen in (("auroc_seen", normal | seen), ("auroc_unseen", normal | ~seen)):
                if not normal[chosen].all():
                    metrics[name] = auroc(scores[chosen], labels[chosen])
        if self.pixels is not None and self.pixels.regions:
            metrics |= {"pixel_auroc": self.pixels.auroc(), "aupro": self.pixels.aupro()}
        if self.alarms:
            metrics |= alarm_rates(torch.cat(self.alarms), labels)
        kinds = np.array(self.kinds)
        groups = {}
        for kind in sorted({k for k, anomalous in zip(self.kinds, labels, strict=True) if anomalous}):
            chosen = normal | torch.from_numpy(kinds == kind)
            groups[kind] = image_metrics(scores[chosen], labels[chosen]) | {
                "images": int((chosen & ~normal).sum())
            }
        return Evaluation(metrics, groups)


def ranks_of(scores: Float[Tensor, " images"]) -> Float[Tensor, " images"]:
    """The rank of each score, from 0 to 1, equal for equal scores: torchmetrics squashes raw ones by a sigmoid."""
    ranks = scores.unique(return_inverse=True)[1].double()
    return ranks / ranks.max().clamp(min=1)


def auroc(scores: Float[Tensor, " images"], labels: Int[Tensor, " images"]) -> float:
    """The area under the ROC curve: how often a positive image scores higher than a negative one."""
    return float(binary_auroc(ranks_of(scores), labels))


def image_metrics(scores: Float[Tensor, " images"], labels: Int[Tensor, " images"]) -> dict[str, float]:
    """AUROC, average precision and the best F1 of scores; label 1 is the positive class."""
    ranks = ranks_of(scores)
    return {
        "auroc": float(binary_auroc(ranks, labels)),
        "ap": float(binary_average_precision(ranks, labels)),
        "f1": best_f1(ranks, labels),
    }


def alarm_rates(alarms: Bool[Tensor, " images"], labels: Int[Tensor, " images"]) -> dict[str, float]:
    """How often a decision says yes: where it should not, `false_alarms`, and where it should, `caught`."""
    raised = alarms.double()
    return {"false_alarms": float(raised[labels == 0].mean()), "caught": float(raised[labels == 1].mean())}


ALARM_METRICS = (
    Metric("false_alarms", "false alarms", "share of normal or known images above the threshold", False),
    Metric("caught", "caught", "share of anomalous or unknown images above the threshold"),
)


class Anomaly(Task):
    """Train on normal images only; judge on normal and anomalous ones, with masks where there are any."""

    name = "anomaly"
    title = "Anomaly detection"
    inputs = {"image": IMAGE}
    truth = {
        "label": Field("0 normal, 1 anomalous", "batch", torch.int64, 0, 1),
        "mask": Field("True where anomalous", "batch height width", torch.bool, optional=True),
        "kind": Field("kind of defect", "batch", str, optional=True),
        "seen": Field(
            "True where anomalies of its kind were among the training images",
            "batch",
            torch.bool,
            optional=True,
        ),
    }
    prediction = {
        "score": Field("anomaly score of the image, higher is more anomalous"),
        "map": Field("anomaly score of each pixel", "batch height width", optional=True),
        **decision("anomalous", "normal"),
    }
    metrics = (
        Metric("auroc", "AUROC", "area under the ROC curve of image scores"),
        Metric("ap", "AP", "average precision of image scores"),
        Metric("f1", "F1", "F1 of image scores at the best threshold"),
        Metric("pixel_auroc", "pixel AUROC", "area under the ROC curve of pixel scores"),
        Metric("aupro", "AUPRO", "area under the per-region-overlap curve to 30 % false positives"),
        Metric("auroc_seen", "AUROC seen", "AUROC on kinds of anomaly that training showed some of"),
        Metric("auroc_unseen", "AUROC unseen", "AUROC on kinds of anomaly that training did not show"),
        *ALARM_METRICS,
    )
    default_data = "textures?size=64"
    example_data = "textures?size=32&n=8"
    options = {
        "seen": "kinds of anomaly, with commas, of which some images are given in training",
        "shots": "how many images of each seen kind; 10 by default",
    }
    ranking = ("score", "label")

    def arrange(self, data: TaskData) -> TaskData:
        """Takes data with labels 0 and 1, or none, as it is, but for the anomalies that are to be seen.

        Raises:
            UserError: If the images have classes other than normal and anomalous; says how to name the normal one.
                If no test image is of a kind that is to be seen, or none would be left.
        """
        first = data.train[0]
        if "label" not in first or (len(data.classes) == 2 and data.classes[0] == "normal"):
            return _with_seen(data) if data.wishes else data
        raise UserError(
            f"{data.spec}: anomaly detection needs normal images to train on, but these have the classes "
            f"{', '.join(data.classes[:5])}; add ?normal=CLASS to say which is normal, or use the MVTec AD layout"
        )

    def check_test(self, samples: SampleSet) -> None:
        """Wants normal and anomalous images, where the samples state their labels.

        Raises:
            UserError: If all have one label.
        """
        labels = set(getattr(samples, "labels", (0, 1)))
        if labels != {0, 1}:
            raise UserError(ONE_LABEL)

    def meter(self, info: DataInfo) -> AnomalyMeter:
        """A fresh meter for the task's metrics."""
        return AnomalyMeter()

    def draw_sample(self, sample: Sample, info: DataInfo) -> list[Panel]:
        """The image, and the truth outlined on it where there is a mask."""
        image = to_pixels(sample["image"])
        kind = str(sample.get("kind", ""))
        panels = [Panel(image, kind)]
        if "mask" in sample:
            panels.append(Panel(_outlined(image, sample["mask"].cpu().numpy()), "truth"))
        return panels

    def draw_prediction(self, sample: Sample, prediction: Prediction, scale: Any = None) -> list[Panel]:
        """The heat map over the image with the score under it; without a map, the image with its score."""
        image = to_pixels(sample["image"])
        caption = f"score {float(prediction['score']):.3g}"
        if prediction.get("anomalous"):
            caption += ", anomalous"
        if "map" not in prediction:
            return [Panel(image, caption)]
        low, high = scale or self.scale([prediction])
        heat = ((prediction["map"].detach().float().cpu().numpy() - low) / max(high - low, 1e-12)).clip(0, 1)
        colours = matplotlib.colormaps["turbo"](heat)[..., :3] * 255
        opacity = 0.25 + 0.5 * heat[..., None]
        return [Panel(((1 - opacity) * image + opacity * colours).round().astype(np.uint8), caption)]

    def scale(self, predictions: Sequence[Prediction]) -> tuple[float, float]:
        """The ends of the colour scale: from the median of all map values to the highest."""
        maps = [p["map"].detach().float().cpu().flatten() for p in predictions if "map" in p]
        if not maps:
            return (0.0, 1.0)
        values = torch.cat(maps)
        return float(values.median()), float(values.max())


def _with_seen(data: TaskData) -> TaskData:
    """Moves a few images of the kinds that are to be seen from the test to the training images."""
    shots = to_int("shots", data.wishes.get("shots", "10"))
    if shots < 1 or "seen" not in data.wishes:
        raise UserError(f"{data.spec}: give seen=KIND, and shots=1 or more")
    if data.test is None:
        raise UserError(f"{data.spec}: has no test images from which to take anomalies; leave out 'seen'")
    kinds, labels = kinds_of(data.test), labels_of(data.test)
    there = sorted({kind for kind, label in zip(kinds, labels, strict=True) if label})
    seen = [kind.strip() for kind in data.wishes["seen"].split(",")]
    moved: list[int] = []
    for kind in seen:
        if kind not in there:
            raise UserError(
                f"{data.spec}: no anomalous test image is of the kind '{kind}'{suggest(kind, there)}"
            )
        of_kind = [index for index, each in enumerate(kinds) if each == kind]
        share = min(shots / len(of_kind), 0.5)
        held = hold_out([str(index) for index in of_kind], [kind] * len(of_kind), share, seed=0)
        moved += [of_kind[place] for place in sorted(held)]
        if not held:
            raise UserError(
                f"{data.spec}: there is one image of the kind '{kind}', too few to train and to test on"
            )
    kept = sorted(set(range(len(kinds))) - set(moved))
    return replace(
        data,
        layout=f"{data.layout}; {len(moved)} of the kinds {', '.join(seen)} are given in training",
        train=View([*((data.train, i) for i in range(len(data.train))), *((data.test, i) for i in moved)]),
        test=View([(data.test, i) for i in kept], {"seen": [kinds[i] in seen for i in kept]}),
    )


def _outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    drawn = image.copy()
    drawn[find_boundaries(mask, mode="outer")] = (255, 40, 40)
    return drawn


TASK = Anomaly()
