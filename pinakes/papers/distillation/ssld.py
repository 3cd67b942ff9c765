r"""Cui et al., Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones,
2021, arXiv:2103.05959.

A strong teacher makes labels needless: the student is only driven to the teacher's probabilities, by a divergence that
treats both alike. So images without labels serve as well, and many are added: those of a large pool that the teacher is
surest of, as many of each class, without copies of the images that the student will be judged on. Training ends with a
short stage on the target images alone, which brings the student back to their distribution.

What the code follows, with the student's probabilities p and the teacher's q (the paper's loss, data selection and
stages as told in the authors' documentation, github.com/PaddlePaddle/PaddleClas, `distillation_en.md`):

- Jensen-Shannon divergence, `jensen_shannon`: JS(p, q) = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, the only
  loss.
- In the authors' code, `symmetric_divergence`: (KL(p || q) + KL(q || p)) / 2, under the name of JS divergence
  (`ppcls/loss/dmlloss.py`).
- `surest_of_each_class`: of the images of the pool that the teacher puts into a class, the k that it is surest of.
- `copies`: images of the pool that are near copies of judged ones, which are left out.
- The last 30 of 390 epochs see the target images alone, at a hundredth of the learning rate.

Differences from the paper: images with a label are the target images, those without are the pool. Copies are found by
the correlation of small pictures instead of SIFT features. The last stage keeps the loss, the shelf's schedule, whose
cosine has fallen below a fiftieth of its height by then, and the number of images a step: labelled images of a batch
are repeated, each with a change of its own. All of the pool is used unless `per_class` says otherwise; the paper takes
about 4 million of the 14 million images of ImageNet-22k for 1000 classes.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from pinakes.data.base import SampleSet, TaskData
from pinakes.data.views import chosen, labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.memory import nearest_neighbours
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller
from pinakes.papers.distillation.classifier import Answer
from pinakes.papers.distillation.cross_entropy import CrossEntropy
from pinakes.papers.distillation.kd import KD
from pinakes.tasks.base import Batch
from pinakes.tasks.classification import UNLABELLED

EQUATIONS = (
    (
        "Jensen-Shannon divergence",
        r"\mathrm{JS}(p, q) = \tfrac{1}{2} \mathrm{KL}(p \,\|\, m) + \tfrac{1}{2} \mathrm{KL}(q \,\|\, m), \quad "
        r"m = \tfrac{1}{2} (p + q)",
    ),
    (
        "In the authors' code",
        r"\tfrac{1}{2} \mathrm{KL}(p \,\|\, q) + \tfrac{1}{2} \mathrm{KL}(q \,\|\, p)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

SMALL = 16
"""Side of the small pictures by which copies are found, in pixels."""
SAME = 0.99
"""Correlation of small pictures from which on two images count as copies."""
AT_ONCE = 64
"""Images of the pool that are looked at together."""

CLAIM_PARTLY_LABELLED = f"{CLAIM_DATA}&labelled=0.2"
"""A fifth of the images of every class with a label, the others as the pool."""


def jensen_shannon(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """The Jensen-Shannon divergence of two softmax outputs, the mean over the batch: 0 to log 2, equal both ways.

    Args:
        student: Its logits.
        teacher: Its logits.

    Source: Lin, Divergence measures based on the Shannon entropy, 1991, equation 4.1, with equal weights.

    Example:
        >>> jensen_shannon(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]]))
        tensor(0.6931)
    """
    one, other = student.log_softmax(1), teacher.log_softmax(1)
    middle = torch.logaddexp(one, other) - math.log(2)
    return (_divergence(one, middle) + _divergence(other, middle)) / 2


def symmetric_divergence(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Half of KL(student || teacher) + KL(teacher || student), the mean over the batch.

    Args:
        student: Its logits.
        teacher: Its logits.

    Source: Kullback and Leibler, On information and sufficiency, 1951; half of their J.

    Example:
        >>> symmetric_divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
        tensor(0.)
    """
    one, other = student.log_softmax(1), teacher.log_softmax(1)
    return (_divergence(one, other) + _divergence(other, one)) / 2


def _divergence(true: Tensor, other: Tensor) -> Tensor:
    """KL(true || other) of log-probabilities."""
    return functional.kl_div(other, true, reduction="batchmean", log_target=True)


DIVERGENCES = {"jensen-shannon": jensen_shannon, "symmetric": symmetric_divergence}
"""What `SSLD` can minimise."""


def surest_of_each_class(
    probabilities: Float[Tensor, "images classes"], count: int
) -> Int[Tensor, " chosen"]:
    """The images that a teacher is surest of, as many of each class that it puts them into.

    Args:
        probabilities: What the teacher says of each image.
        count: The most images of a class, 1 or more; a class of fewer gives all.

    Returns:
        Their places, in rising order.

    Raises:
        ValueError: If `count` is below 1.

    Example:
        >>> surest_of_each_class(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), 1)
        tensor([0, 1])
    """
    if count < 1:
        raise ValueError(f"count: expected 1 or more, got {count}")
    sureness, label = probabilities.max(1)
    order = sureness.argsort(descending=True, stable=True)
    order = order[label[order].argsort(stable=True)]
    sizes = label.bincount(minlength=probabilities.shape[1])
    first = (sizes.cumsum(0) - sizes)[label[order]]
    rank = torch.arange(len(order), device=order.device) - first
    return order[rank < count].sort().values


def small_pictures(image: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images numbers"]:
    """Images shrunk to 16 x 16 pixels, without brightness and contrast, as rows of length 1 by which copies are found.

    Args:
        image: Images.
    """
    small = functional.interpolate(image, (SMALL, SMALL), mode="bilinear", antialias=True).flatten(1)
    return functional.normalize(small - small.mean(1, keepdim=True), dim=1)


def copies(
    pool: Float[Tensor, "pool numbers"], known: Float[Tensor, "known numbers"], same: float = SAME
) -> Bool[Tensor, " pool"]:
    """Which images of a pool are copies of known ones, but for size, brightness, contrast and small changes.

    Args:
        pool: `small_pictures` of the pool.
        known: `small_pictures` of what is to be kept apart, one or more.
        same: The correlation from which on two images count as copies, up to 1.
    """
    distance = nearest_neighbours(pool, known)[0][:, 0]
    return 1 - distance.square() / 2 >= same


def target_rows(label: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """The places of the labelled images of a batch, repeated until there are as many as the batch has images.

    A batch of which no image has a label is left as it is.

    Args:
        label: The class, or -1 where it is not known.

    Example:
        >>> target_rows(torch.tensor([-1, 4, -1, 2, -1]))
        tensor([1, 3, 1, 3, 1])
    """
    rows = torch.arange(len(label), device=label.device)
    known = rows[label != UNLABELLED]
    return known[rows % len(known)] if len(known) else rows


class SSLD(Distiller):
    """A student that learns the teacher's probabilities alone, of images with and without labels.

    Args:
        divergence: "jensen-shannon", or "symmetric" as in the authors' code.
        per_class: The most images without a label that are used of each class that the teacher puts them into; None
            for all.
        finetune: The last share of training, which sees the images with a label alone, from 0 and below 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        divergence: str = "jensen-shannon",
        per_class: int | None = None,
        finetune: float = 30 / 390,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if divergence not in DIVERGENCES:
            raise UserError(f"divergence: '{divergence}' is unknown{suggest(divergence, DIVERGENCES)}")
        if per_class is not None and per_class < 1:
            raise UserError(f"per_class: expected a whole number of 1 or more, got {per_class}")
        if not 0 <= finetune < 1:
            raise UserError(f"finetune: expected a share from 0 and below 1, got {finetune}")
        self.divergence = DIVERGENCES[divergence]
        self.per_class = per_class
        self.finetune = finetune

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The divergence of the two answers; labels are not looked at."""
        return self.divergence(student.logits, teacher.logits)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; in the last stage, of its labelled images."""
        # where nothing says how long training is, `done` is 1 throughout, and there is no last stage
        if 1 - self.finetune <= self.done < 1:
            rows = target_rows(batch["label"])
            batch = {name: values[rows] for name, values in batch.items() if isinstance(values, Tensor)}
        return super().training_step(batch, batch_idx)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Chooses from the images without a label, and trains the student."""
        selected = replace(data, train=self.selected(data))
        if plan.devices > 1 and selected.train is not data.train:
            # each process looks for a teacher of the data it is given, and cannot train one itself
            self.ready(selected, plan)
        super().learn(selected, plan)

    def selected(self, data: TaskData) -> SampleSet:
        """The training images that have a label, and of the others those that are worth learning from."""
        labels = labels_of(data.train)
        pool = [i for i, label in enumerate(labels) if label in (None, UNLABELLED)]
        if not pool:
            return data.train
        pictures, probabilities = self._looked_at(chosen(data.train, pool))
        kept = torch.ones(len(pool), dtype=torch.bool)
        for held_out in (data.val, data.test):
            if held_out is not None and len(held_out):
                kept &= ~copies(pictures, self._pictures(held_out))
        places = kept.nonzero()[:, 0]
        if self.per_class is not None and len(places):
            places = places[surest_of_each_class(probabilities[places], self.per_class)]
        if len(places) == len(pool):
            return data.train
        dropped = set(pool) - {pool[place] for place in places.tolist()}
        return chosen(data.train, [i for i in range(len(labels)) if i not in dropped])

    def _looked_at(self, pool: SampleSet) -> tuple[Tensor, Tensor]:
        """Small pictures of images, and what the teacher says of them."""
        found = [
            (small_pictures(image), self.taught(image.to(self.device)).logits.softmax(1).cpu())
            for image in self._images(pool)
        ]
        return torch.cat([each[0] for each in found]), torch.cat([each[1] for each in found])

    def _pictures(self, samples: SampleSet) -> Tensor:
        return torch.cat([small_pictures(image) for image in self._images(samples)])

    def _images(self, samples: SampleSet) -> list[Tensor]:
        loader: DataLoader[Batch] = DataLoader(samples, batch_size=AT_ONCE, collate_fn=self.task.collate)  # type: ignore[arg-type]  # any map-style set serves
        return [batch["image"] for batch in loader]


class _LabelledOnly(KD):
    """KD that is given the images with a label, and learns from the same teacher."""

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        rows = [i for i, label in enumerate(labels_of(data.train)) if label not in (None, UNLABELLED)]
        super().learn(replace(data, train=chosen(data.train, rows)), plan)


def _against(lab: Lab, baseline: Callable[[], Any]) -> Trial:
    return lab.duel(ours=SSLD, baseline=baseline, data=CLAIM_PARTLY_LABELLED, metric="accuracy", **CLAIM_PLAN)


@claim(
    text="A student that learns a teacher's probabilities alone, of labelled and unlabelled images, is more accurate "
    "than one that learns the labels.",
    where="abstract",
    higher_is_better=True,
)
def teacher_alone_beats_labels(lab: Lab) -> Trial:
    """Made scenes of single objects, of which a fifth have a label; teacher and baseline learn from these."""
    return _against(lab, CrossEntropy)


@claim(
    text="A student that learns a teacher's probabilities alone, of labelled and unlabelled images, is more accurate "
    "than one that learns labels and teacher on the labelled images.",
    where="abstract",
    higher_is_better=True,
)
def unlabelled_images_beat_labels_beside_the_teacher(lab: Lab) -> Trial:
    """As above; the same teacher on both sides."""
    return _against(lab, _LabelledOnly)
