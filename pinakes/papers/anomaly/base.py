"""What the methods of this shelf share: scores, thresholds found on held-out images, and a classifier to look into."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.data.splits import hold_out
from pinakes.data.views import chosen, groups_of, labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.nn.classifier import ImageClassifier
from pinakes.tasks.base import Batch, Prediction

log = logging.getLogger(__name__)

FEWEST_TO_DIVIDE = 10
"""With fewer training images none is held out to find a threshold."""


def normal_quantile(
    scores: Float[Tensor, " batch"], held_out: Float[Tensor, " images"]
) -> Float[Tensor, " batch"]:
    """The share of held-out normal images that score lower, the image itself counted as one more that does not.

    One minus it is the conformal p-value: a normal image that is exchangeable with the held-out ones has a value above
    1 - a with a probability of at most a.

    Args:
        scores: Higher is stranger.
        held_out: Scores of normal images that were not fitted on, ascending.

    Source: Vovk et al., Algorithmic Learning in a Random World, 2005, section 2.

    Example:
        >>> normal_quantile(torch.tensor([0.0, 2.5, 9.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor([0.0000, 0.5000, 0.7500])
    """
    lower = torch.searchsorted(held_out.contiguous(), scores.contiguous())
    return lower / (len(held_out) + 1)


def exceeds(quantile: Float[Tensor, " batch"], images: int, false_alarms: float) -> Bool[Tensor, " batch"]:
    """Whether images are stranger than a set share of normal ones; never more often for normal ones than that share.

    Where there are too few held-out images for so small a share, the images stranger than all of them.

    Args:
        quantile: What `normal_quantile` returned.
        images: The number of held-out images.
        false_alarms: The share of normal images that may be called strange.
    """
    attainable = max(false_alarms, 1 / (images + 1))
    return quantile > 1 - attainable - 1e-6


class Scorer(Method):
    """A method that scores images, higher where stranger, and says from a threshold on that one is strange.

    The threshold is found on images that were not fitted on: those of the validation part where there is one, else a
    share of the training images (`hold_out`). It lets a set share of normal images through as false alarms
    (`false_alarms`). Both are settings of the fit.
    """

    decision = ""
    """The name under which the task states the decision."""
    uses_anomalies = False
    """Whether the method learns from training images that are labelled as anomalous."""
    held_out_scores: Tensor
    false_alarms: Tensor

    def prepare(self, info: DataInfo, *, seed: int = 0):  # type: ignore[no-untyped-def]  # returns itself
        """Makes the networks, and room for what calibration finds."""
        super().prepare(info, seed=seed)
        self.register_buffer("held_out_scores", torch.empty(0))
        self.register_buffer("false_alarms", torch.tensor(0.05))
        return self

    def divide(self, data: TaskData, plan: TrainingPlan) -> tuple[TaskData, SampleSet | None]:
        """Leaves out anomalous images that the method has no use for, and holds out normal ones for the threshold."""
        normal = self._normal(data.train)
        anomalous = sorted(set(range(len(data.train))) - set(normal))
        if anomalous and not self.uses_anomalies:
            data = replace(data, train=chosen(data.train, normal))
            normal, anomalous = list(range(len(normal))), []
        if plan.hold_out == 0:
            return data, None
        if data.val is not None and (usual := self._normal(data.val)):
            return data, chosen(data.val, usual)
        groups = groups_of(data.train)
        images = list(dict.fromkeys(groups[i] for i in normal))
        if len(images) < FEWEST_TO_DIVIDE:
            return data, None
        places = hold_out(images, [""] * len(images), plan.hold_out, plan.seed)
        held = {images[place] for place in places}
        fitted = sorted([i for i in normal if groups[i] not in held] + anomalous)
        return replace(data, train=chosen(data.train, fitted)), chosen(
            data.train, [i for i in normal if groups[i] in held]
        )

    def _normal(self, part: SampleSet) -> list[int]:
        """The places of the images that are not labelled as anomalous."""
        labels = labels_of(part) if self.task_name == "anomaly" else [0] * len(part)
        return [i for i, label in enumerate(labels) if not label]

    def calibrate(self, samples: SampleSet, plan: TrainingPlan) -> None:
        """Keeps the scores of held-out normal images; of an image in tiles, that of its worst tile."""
        scores = torch.cat(
            [self.predict_step(batch)["score"] for batch in self.batches(samples, plan, "threshold")]
        ).float()
        place = {name: place for place, name in enumerate(dict.fromkeys(groups_of(samples)))}
        of_image = torch.tensor([place[name] for name in groups_of(samples)], device=scores.device)
        worst = scores.new_full((len(place),), -torch.inf).scatter_reduce(0, of_image, scores, "amax")
        self.held_out_scores = worst.sort().values
        self.false_alarms = torch.tensor(plan.false_alarms, device=self.device)
        if plan.false_alarms * (len(self.held_out_scores) + 1) < 1:
            log.warning(
                "%d held-out images are too few for a false-alarm rate of %g; it is %.2g",
                len(self.held_out_scores),
                plan.false_alarms,
                1 / (len(self.held_out_scores) + 1),
            )

    def finish(self, prediction: Prediction) -> Prediction:
        """Adds the probability and the decision, once calibrated."""
        images = len(self.held_out_scores)
        if images == 0:
            return prediction
        probability = normal_quantile(prediction["score"].float(), self.held_out_scores)
        strange = exceeds(probability, images, float(self.false_alarms))
        return prediction | {"probability": probability, self.decision: strange}

    def batches(self, samples: SampleSet, plan: TrainingPlan, what: str) -> Iterator[Batch]:
        """Goes through samples once, in order, on the method's device and without gradients.

        Args:
            samples: What to go through.
            plan: Batch size, workers and whether to show progress.
            what: A word for the progress bar.
        """
        loader: DataLoader[Batch] = DataLoader(
            samples,  # type: ignore[arg-type]  # any map-style set serves
            batch_size=plan.batch_size,
            num_workers=plan.workers,
            collate_fn=self.task.collate,
        )
        for batch in tqdm(loader, desc=what, disable=not plan.progress, leave=False):
            with torch.no_grad():
                yield {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in batch.items()}


class Detector(Scorer):
    """A method for the task `anomaly`: fitted on normal images, it scores images and, mostly, their pixels."""

    task_name = "anomaly"
    decision = "anomalous"
    min_size = 32


class UnknownDetector(Scorer):
    """A method for the task `ood`: a classifier of the known classes, and a score of what it does with an image.

    All methods that inherit this train the same classifier: with the same seed and settings, the same weights. A
    subclass gives `strangeness`, and `learn` if it needs statistics of the training images (`super().learn` first).

    Args:
        backbone: Name of the network that is fine-tuned.
        learning_rate: Of AdamW.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "ood"
    decision = "unknown"
    min_size = 32
    min_images = 2
    training_defaults = {"steps": 300, "batch_size": 64}

    def __init__(self, backbone: str = "pinakes/tiny_conv", learning_rate: float = 1e-3) -> None:
        super().__init__()
        if not learning_rate > 0:
            raise UserError(f"learning_rate: expected a number above 0, got {learning_rate}")
        self.backbone_name = backbone
        self.learning_rate = learning_rate

    def build(self, info: DataInfo) -> None:
        """Makes the classifier.

        Raises:
            UserError: If there are fewer than two known classes.
        """
        if len(info.classes) < 2:
            raise UserError(f"data: a classifier needs at least two known classes, got {len(info.classes)}")
        self.classifier = ImageClassifier(self.backbone_name, len(info.classes), info.channels)

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """What the method says of images: at least `score`, higher is stranger, and `label`."""
        raise NotImplementedError(f"{type(self).__name__} gives no strangeness")

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The cross-entropy of a batch."""
        return functional.cross_entropy(self.classifier(batch["image"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the classifier."""
        return torch.optim.AdamW(self.classifier.parameters(), lr=self.learning_rate, weight_decay=0.05)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores images."""
        return self.strangeness(batch["image"])

    def features_and_labels(
        self, data: TaskData, plan: TrainingPlan
    ) -> tuple[Float[Tensor, "images width"], Int[Tensor, " images"]]:
        """The classifier's pooled features of all training images, and their classes."""
        self.eval()
        pairs = [
            (self.classifier.features(batch["image"]), batch["label"])
            for batch in self.batches(data.train, plan, "features")
        ]
        return torch.cat([features for features, _ in pairs]), torch.cat([labels for _, labels in pairs])
