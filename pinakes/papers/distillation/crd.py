r"""Tian et al., Contrastive Representation Distillation, ICLR 2020, arXiv:1910.10699.

A student should hold of an image what the teacher holds of it, and not what the teacher holds of other images. Both
networks' features are embedded, and of many pairs of a student's and a teacher's embedding the loss asks whether they
come from the same image: one does, the others are of images of other classes. The embeddings of all training images
are remembered from when each was last seen, so that there can be thousands of others.

What the code follows, with g the embeddings of length 1 of the last pooled features, K negatives (N in the paper) and
n training images (M in the paper):

- Equation 19, `same_image`: h(T, S) = e^(g_T . g_S / tau) / (e^(g_T . g_S / tau) + K / n), with e^(...) divided by a
  normaliser Z, which is n times its mean over the first batch, as in the authors' code
  (github.com/HobbitLong/RepDistiller).
- Equation 18, `noise_contrastive_loss`: -log h of the pair of the same image, - log(1 - h) of the K others, the mean
  over the batch; once for the student's embeddings against the remembered ones of the teacher, once the other way.
- `ContrastiveMemory`: n embeddings of each network; after a step those of the batch are m times what they were plus
  1 - m times the new ones, scaled to length 1.
- `ContrastiveMemory.negatives`: negatives are drawn from the images of other classes.
- The whole loss: L = CE + alpha T^2 KL + beta (L_S + L_T), of which alpha is 0 unless it is to be combined with KD.

Differences from the paper: 1024 negatives instead of 16384, since the data here has a few thousand images where
CIFAR-100 has fifty thousand; they are always drawn with replacement. tau and beta are those of the authors' code. An
image without a label is a class of its own here: every other image can be its negative, as in the paper's variant
without labels. Several processes that train together exchange what they remember.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import TaskData
from pinakes.data.views import labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller, distillation_divergence
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.cross_entropy import CrossEntropy
from pinakes.papers.distillation.kd import KD
from pinakes.papers.distillation.teacher import numbered
from pinakes.tasks.base import Batch
from pinakes.tasks.classification import UNLABELLED

TRIAL_IMAGES = 1024
"""How many images a memory holds where there is no training set, as when a step is tried out."""

EQUATIONS = (
    ("Equation 19", r"h(T, S) = \frac{e^{g_T^\top g_S / \tau} / Z}{e^{g_T^\top g_S / \tau} / Z + K / n}"),
    ("Equation 18", r"L = -\log h(T_0, S) - \sum_{k=1}^K \log (1 - h(T_k, S))"),
    ("The whole loss", r"L = \mathrm{CE} + \alpha \, T^2 \, \mathrm{KL} + \beta \, (L_S + L_T)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def same_image(
    similarity: Float[Tensor, "*pairs"],
    log_normaliser: Float[Tensor, ""] | float,
    negatives: int,
    images: int,
) -> Float[Tensor, "*pairs"]:
    """The log-odds of h, the probability that two embeddings are of the same image.

    Args:
        similarity: g_T . g_S / tau of each pair.
        log_normaliser: log Z; 0 for the paper's equation.
        negatives: K, of each image.
        images: n, the training images.

    Source: equation 19, whose h is the sigmoid of the result.

    Example:
        >>> same_image(torch.zeros(1), 0.0, negatives=3, images=1).sigmoid()  # 1 / (1 + 3)
        tensor([0.2500])
    """
    return similarity - log_normaliser - math.log(negatives / images)


def noise_contrastive_loss(
    positive: Float[Tensor, " batch"], negative: Float[Tensor, "batch negatives"]
) -> Float[Tensor, ""]:
    """-log h of the pair of the same image and -log(1 - h) of all others, the mean over the batch.

    Args:
        positive: Log-odds of the pairs of the same image.
        negative: Log-odds of the other pairs.

    Source: equation 18.
    """
    return -(functional.logsigmoid(positive) + functional.logsigmoid(-negative).sum(1)).mean()


class ContrastiveMemory(nn.Module):
    """What both networks last held of every training image.

    Args:
        labels: Of the training images; -1 where one is not known.
        dimension: Of the embeddings.
        negatives: K, drawn for every image.
        tau: Temperature of the similarities.
        momentum: m, how much of what it holds an image keeps when it is seen again.

    Raises:
        UserError: If all images are of one class.
    """

    order: Tensor
    first: Tensor
    alike: Tensor
    student: Tensor
    teacher: Tensor

    def __init__(
        self,
        labels: Int[Tensor, " images"],
        dimension: int = 128,
        negatives: int = 1024,
        tau: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.images = len(labels)
        self.count = negatives
        self.tau = tau
        self.momentum = momentum
        alone = labels.max() + 1 + torch.arange(len(labels))
        kinds, sizes = torch.where(labels == UNLABELLED, alone, labels).unique(
            return_inverse=True, return_counts=True
        )[1:]
        if len(sizes) < 2:
            raise UserError("data: all training images are of one class, so that there are no negatives")
        self.register_buffer("order", kinds.argsort(stable=True))
        self.register_buffer("first", (sizes.cumsum(0) - sizes)[kinds])
        self.register_buffer("alike", sizes[kinds])
        reach = (3 / dimension) ** 0.5  # so that the length is about 1
        for name in ("student", "teacher"):
            self.register_buffer(name, (2 * torch.rand(len(labels), dimension) - 1) * reach)
            self.register_buffer(f"log_normaliser_{name}", torch.tensor(torch.nan))

    def negatives(self, index: Int[Tensor, " batch"]) -> Int[Tensor, "batch negatives"]:
        """Images of other classes, drawn evenly and with replacement.

        Args:
            index: The images' places in the training set.
        """
        first, alike = self.first[index, None], self.alike[index, None]
        others = self.images - alike
        drawn = (torch.rand(len(index), self.count, device=index.device) * others).long()
        drawn = drawn.minimum(others - 1)
        # `order` has each class in one piece, which is skipped
        return self.order[drawn + (drawn >= first) * alike]

    def forward(
        self,
        student: Float[Tensor, "batch dimension"],
        teacher: Float[Tensor, "batch dimension"],
        index: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """L_S + L_T, with the same negatives for both.

        Args:
            student: Embeddings of length 1.
            teacher: Embeddings of length 1.
            index: The images' places in the training set.
        """
        places = torch.cat([index[:, None], self.negatives(index)], 1)
        with torch.autocast(student.device.type, enabled=False):
            return self._contrast(student, "teacher", places) + self._contrast(teacher, "student", places)

    def _contrast(
        self, embedding: Float[Tensor, "batch dimension"], other: str, places: Int[Tensor, "batch pairs"]
    ) -> Float[Tensor, ""]:
        """The loss of one network's embeddings against the remembered ones of the other."""
        # a copy, since `remember` may change the memory before the backward pass
        remembered = self.get_buffer(other).clone()
        similarity = (embedding.type_as(remembered) @ remembered.T / self.tau).gather(1, places)
        normaliser = self.get_buffer(f"log_normaliser_{other}")
        fresh = similarity.detach().flatten().logsumexp(0) + math.log(self.images / similarity.numel())
        normaliser.copy_(torch.where(normaliser.isnan(), fresh, normaliser))
        odds = same_image(similarity, normaliser, self.count, self.images)
        return noise_contrastive_loss(odds[:, 0], odds[:, 1:])

    @torch.no_grad()
    def remember(
        self,
        student: Float[Tensor, "batch dimension"],
        teacher: Float[Tensor, "batch dimension"],
        index: Int[Tensor, " batch"],
    ) -> None:
        """Takes in what the networks now hold of images.

        Args:
            student: Embeddings of length 1.
            teacher: Embeddings of length 1.
            index: The images' places in the training set.
        """
        for memory, embedding in ((self.student, student), (self.teacher, teacher)):
            mixed = self.momentum * memory[index] + (1 - self.momentum) * embedding.type_as(memory)
            memory[index] = functional.normalize(mixed)


class Embedding(nn.Linear):
    """A linear map, the result scaled to length 1."""

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch dimension"]:
        """The embeddings of pooled features."""
        return functional.normalize(super().forward(features))


class CRD(Distiller):
    """A student whose features tell which image the teacher's features are of.

    Args:
        dimension: Of the embeddings that are compared.
        negatives: How many images of other classes each image is held against.
        tau: Temperature of the similarities.
        momentum: How much of what is remembered of an image stays when it is seen again, from 0 to below 1.
        alpha: Weight of the divergence from the teacher's logits; 1 for the paper's combination with KD.
        beta: Weight of the contrastive loss.
        temperature: T of the divergence.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        dimension: int = 128,
        negatives: int = 1024,
        tau: float = 0.07,
        momentum: float = 0.5,
        alpha: float = 0.0,
        beta: float = 0.8,
        temperature: float = 4.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, count in (("dimension", dimension), ("negatives", negatives)):
            if count < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {count}")
        for name, value in (("tau", tau), ("temperature", temperature)):
            if not value > 0:
                raise UserError(f"{name}: expected a number above 0, got {value}")
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value >= 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum: expected a share from 0 to below 1, got {momentum}")
        self.memory_options = (dimension, negatives, tau, momentum)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature
        self.labels: Tensor | None = None

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Gets the teacher, and a memory for every training image."""
        self.labels = torch.tensor([UNLABELLED if each is None else each for each in labels_of(data.train)])
        super().ready(data, plan)

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """The embeddings and the memory."""
        labels = torch.full((TRIAL_IMAGES,), UNLABELLED) if self.labels is None else self.labels
        dimension = self.memory_options[0]
        return nn.ModuleDict(
            {
                "student": Embedding(student[-1], dimension),
                "teacher": Embedding(teacher[-1], dimension),
                "memory": ContrastiveMemory(labels, *self.memory_options),
            }
        )

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the student on images that know their place in the training set."""
        super().learn(numbered(data), plan)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of a batch; one that does not say which training images it holds is only good for a trial."""
        index = self._index(batch)
        image = self.augmented(batch["image"])
        teacher = self.heard(image, batch)
        student = self.answers(image)
        return self.loss(student, teacher, batch["label"]) + self.beta * self.contrast(
            student, teacher, index
        )

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """What labels and the teacher's logits say."""
        told = distillation_divergence(student.logits, teacher.logits, self.temperature)
        return labelled_cross_entropy(student.logits, label) + self.alpha * told

    def contrast(self, student: Answer, teacher: Answer, index: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The contrastive loss of a batch, which is then remembered.

        Args:
            student: What the student says of the batch.
            teacher: What the teacher says of it.
            index: The images' places in the training set.
        """
        assert isinstance(self.helping, nn.ModuleDict)
        ours = self.helping["student"](student.levels[-1].mean((2, 3)))
        theirs = self.helping["teacher"](teacher.levels[-1].mean((2, 3)))
        memory = self.helping["memory"]
        assert isinstance(memory, ContrastiveMemory)
        loss: Tensor = memory(ours, theirs, index)
        memory.remember(*map(self._of_all_processes, (ours.detach(), theirs.detach(), index)))
        return loss

    def _index(self, batch: Batch) -> Int[Tensor, " batch"]:
        """The places of a batch in the training set.

        Raises:
            ValueError: If there is a training set, and the batch does not say.
        """
        if "index" in batch:
            return batch["index"]
        if self.labels is not None:
            raise ValueError("index: the batch does not say which training images it holds")
        return torch.arange(len(batch["label"]), device=batch["label"].device) % TRIAL_IMAGES

    def _of_all_processes(self, values: Tensor) -> Tensor:
        """The values of all processes that train together, one after the other."""
        if self._trainer is None or self.trainer.world_size == 1:
            return values
        gathered = self.all_gather(values)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)


@claim(
    text="A student taught by CRD is more accurate than one taught by KD.",
    where="tables 1 and 2",
    higher_is_better=True,
)
def crd_beats_kd(lab: Lab) -> Trial:
    """Made scenes of single objects, without KD's term in CRD's loss."""
    return lab.duel(ours=CRD, baseline=KD, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN)


@claim(
    text="A student taught by CRD is more accurate than one that learns the labels alone.",
    where="tables 1 and 2",
    higher_is_better=True,
)
def crd_beats_labels_alone(lab: Lab) -> Trial:
    """As above; the baseline has the same cross-entropy and no teacher."""
    return lab.duel(ours=CRD, baseline=CrossEntropy, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN)
