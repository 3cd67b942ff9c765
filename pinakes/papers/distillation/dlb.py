r"""Shen et al., Self-Distillation from the Last Mini-Batch for Consistency Regularization, CVPR 2022, arXiv:2203.16172.

A network can be its own teacher if every image is looked at twice in a row. Half of a mini-batch is new, the other half
are the images that were new one step ago, changed at random once more. What the network said of these a step ago,
softened, is what it should say now; so its answers stay consistent over changes of the image and over steps, which
keeps it from learning wrong labels by heart. Nothing is kept but the last images and logits.

What the code follows, with x_{t-1} the images that were new at step t - 1, x_t those that are new now, p^tau
probabilities softened by a temperature tau, and theta_t the network at step t (section 3 and the authors' code,
github.com/Meta-knowledge-Lab/DLB, `dlb.py`):

- The labels: L_CE, the mean cross-entropy of x_{t-1} and x_t together.
- `distillation_divergence` of the shelf: L_LB = tau^2 KL(p^tau(x_{t-1}; theta_{t-1}) || p^tau(x_{t-1}; theta_t)), with
  the earlier answer as a constant.
- L = L_CE + alpha L_LB. The first step of training has no last mini-batch and learns the labels alone.

Differences from the paper: both halves go through the network together, so that batch normalisation sees the
mini-batch that the paper draws; the authors' code sends them one after the other. alpha = 1 and tau = 3 are settings of
ours, as the code states no default. `batch_size` counts the new images, as in the authors' code: a step looks at twice
as many. Images without a label take part in L_LB alone. The last mini-batch is part of a checkpoint; a run in several
processes that is resumed goes on with that of the first one.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.data.base import SampleSet, TaskData
from pinakes.data.views import View, labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, distillation_divergence
from pinakes.papers.distillation.classifier import Augmentation, Classifier, labelled_cross_entropy
from pinakes.tasks.base import Batch
from pinakes.tasks.classification import UNLABELLED

EQUATIONS = (
    (
        "`distillation_divergence`",
        r"L_{LB} = \tau^2 \, \mathrm{KL}\big(p^\tau(x_{t-1}; \theta_{t-1}) \,\|\, p^\tau(x_{t-1}; \theta_t)\big)",
    ),
    ("L = L_CE", r"L = L_{CE} + \alpha L_{LB}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LAST = "last_mini_batch"
"""Where a checkpoint keeps the last mini-batch."""
CLAIM_NOISE = 0.4
"""Share of wrong labels in the claim about label noise."""


@dataclass(frozen=True)
class LastMiniBatch:
    """The images that were new a step ago, with what the network said of them.

    Args:
        image: (batch, channels, height, width), as they were loaded.
        label: (batch,), -1 where it is not known.
        logits: (batch, classes), without gradients.
    """

    image: Tensor
    label: Tensor
    logits: Tensor

    def to(self, device: torch.device) -> "LastMiniBatch":
        """The same on a device."""
        return LastMiniBatch(self.image.to(device), self.label.to(device), self.logits.to(device))


def last_mini_batch_loss(
    logits: Float[Tensor, "both classes"],
    label: Int[Tensor, " both"],
    last: Float[Tensor, "old classes"],
    alpha: float = 1.0,
    temperature: float = 3.0,
) -> Float[Tensor, ""]:
    """L_CE + alpha L_LB of a mini-batch whose first images are those that were new in the last one.

    Args:
        logits: What the network says of the old and then of the new images.
        label: Their classes, -1 where one is not known.
        last: What it said of the old images a step ago; no gradient flows to it.
        alpha: Weight of consistency.
        temperature: tau, above 0.

    Example:
        >>> logits = torch.tensor([[0.0, 99.0], [99.0, 0.0]])
        >>> last_mini_batch_loss(logits, torch.tensor([1, 0]), logits[:1])
        tensor(0.)
    """
    consistency = distillation_divergence(logits[: len(last)], last.detach(), temperature)
    return labelled_cross_entropy(logits, label) + alpha * consistency


def with_symmetric_noise(samples: SampleSet, classes: int, share: float, seed: int) -> View:
    """Samples of which a share has the label of another class, each other class as likely.

    Args:
        samples: Samples with labels; those without stay without and are not counted.
        classes: How many classes there are.
        share: How many of the labels become wrong, 0 to 1.
        seed: Which ones and how.
    """
    label = np.array([UNLABELLED if each is None else each for each in labels_of(samples)])
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(label != UNLABELLED)
    wrong = rng.permutation(known)[: round(share * len(known))]
    label[wrong] = (label[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return View([(samples, i) for i in range(len(label))], {"label": label.tolist()})


class DLB(Classifier):
    """A network that sees every image twice in a row and keeps to what it said of it the first time.

    Args:
        alpha: Weight of consistency beside the labels.
        temperature: tau of the softened probabilities.
        student: Name of the network that is trained, as `pinakes.nn.backbones` reads it.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed, anew each time they are seen: "shift" moves them by up to an
            eighth, "flip" also mirrors them, "none" leaves them.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        temperature: float = 3.0,
        student: str = "pinakes/resnet8s2",
        learning_rate: float = 2e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(student, learning_rate, augmentation)
        if alpha < 0:
            raise UserError(f"alpha: expected 0 or more, got {alpha}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        self.alpha = alpha
        self.temperature = temperature
        self.last: LastMiniBatch | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of the new images and of those of the last step."""
        image, label = batch["image"], batch["label"]
        if self.last is None:
            fresh = self.answers(self.augmented(image)).logits
            loss = labelled_cross_entropy(fresh, label)
        else:
            last = self.last.to(image.device)
            logits = self.answers(self.augmented(torch.cat([last.image, image]))).logits
            fresh = logits[len(last.image) :]
            labels = torch.cat([last.label, label])
            loss = last_mini_batch_loss(logits, labels, last.logits, self.alpha, self.temperature)
        self.last = LastMiniBatch(image, label, fresh.detach())
        return loss

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the network, from no last mini-batch unless a checkpoint holds one."""
        self.last = None
        try:
            super().learn(data, plan)
        finally:
            self.last = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the last mini-batch, so that a resumed run goes on as if it had not been stopped."""
        if self.last is not None:
            checkpoint[LAST] = vars(self.last)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the last mini-batch of a checkpoint."""
        self.last = LastMiniBatch(**checkpoint[LAST]) if LAST in checkpoint else None


class _NoisyLabels(DLB):
    """DLB on training images of which some labels were made wrong."""

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        noisy = with_symmetric_noise(data.train, len(self.classes), CLAIM_NOISE, plan.seed)
        super().learn(replace(data, train=noisy), plan)


@claim(
    text="Where two in five labels are wrong, consistency with the last mini-batch makes a network more accurate.",
    where="abstract",
    higher_is_better=True,
)
def consistency_helps_against_wrong_labels(lab: Lab) -> Trial:
    """Made scenes of single objects, 40 % of the training labels replaced by another class, right ones in the test
    part; the baseline sees the same images as often, without the term (alpha = 0)."""
    return lab.duel(
        ours=_NoisyLabels,
        baseline=lambda: _NoisyLabels(alpha=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="Consistency with the last mini-batch makes a network more accurate.",
    where="abstract",
    higher_is_better=True,
)
def consistency_helps(lab: Lab) -> Trial:
    """As above, with the labels as they are."""
    return lab.duel(
        ours=DLB, baseline=lambda: DLB(alpha=0.0), data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN
    )
