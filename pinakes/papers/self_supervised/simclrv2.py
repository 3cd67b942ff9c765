r"""Chen et al., Big Self-Supervised Models are Strong Semi-Supervised Learners, NeurIPS 2020, arXiv:2006.10029.

A classifier from few labels and many images without. A network first learns from views of all images, as in SimCLR.
Then it is fine-tuned on the few that have a label, together with the first layer of its projection head, which SimCLR
throws away; it helps the more the fewer labels there are. Last, the fine-tuned network is a teacher: what it says of
all images teaches a student, of the same form or smaller.

What the code follows:

- Section 2, pretraining: `nt_xent_loss` of `pinakes.nn.contrastive`, equation 1, with a projection head of three
  layers, the last one with a normalisation as in github.com/google-research/simclr.
- Section 2, fine-tuning: f_task(x) = W_task sigma(W_1 f(x)), from a layer of the head that `tune_from` names.
- Section 2, `distillation_loss`: equation 2, the cross-entropy of softened answers of teacher and student over all
  images. Equation 3 mixes it with that of the labels, by `alpha`. The teacher is fixed, and sees what the student sees.
- All are stages of one fit, each with its own rise and fall of the learning rate. Images are only cropped and mirrored
  in the second and third.

Differences from the paper: small networks without selective kernels, and no memory of earlier negatives, which the
authors found to add little. In pretraining each view is normalised by itself, as in `simclr` here. AdamW in place of
LARS. A student has fresh weights and no projection head, as in the authors' notebook. Batches of fine-tuning are drawn
from the labelled images with replacement.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.data.views import chosen, labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.augment import flipped
from pinakes.nn.classifier import ImageClassifier
from pinakes.nn.crops import randomly_cropped
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.base import CLAIM_PLAN, ConvolutionalLevels
from pinakes.papers.self_supervised.simclr import SimCLR
from pinakes.papers.self_supervised.views import CLAIM_DATA
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.classification import UNLABELLED, answer

EQUATIONS = (
    (
        "Equation 1",
        r"\ell_{i,j} = -\log \frac{\exp(\mathrm{sim}(z_i, z_j) / \tau)}"
        r"{\sum_{k \neq i} \exp(\mathrm{sim}(z_i, z_k) / \tau)}",
    ),
    (
        "Equation 2",
        r"\mathcal{L}^{distill} = -\sum_{x_i \in \mathcal{D}} \sum_y P^T(y | x_i; \tau) \log P^S(y | x_i; \tau)",
    ),
    (
        "Equation 3",
        r"\mathcal{L} = -(1 - \alpha) \sum_{(x_i, y_i) \in \mathcal{D}^L} \log P^S(y_i | x_i) "
        r"- \alpha \sum_{x_i \in \mathcal{D}} \sum_y P^T(y | x_i; \tau) \log P^S(y | x_i; \tau)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LAYERS = 3
"""Of the projection head."""


def distillation_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """The cross-entropy of what a teacher and a student say, both softened; the mean over the batch.

    Args:
        student: Its logits.
        teacher: Its logits; no gradient flows to it.
        temperature: Tau, above 0; the lower, the more the teacher's first choice counts alone.

    Source: equation 2.

    Example:
        >>> distillation_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[90.0, 0.0]])).round(decimals=4)
        tensor(0.1269)
    """
    return functional.cross_entropy(student / temperature, (teacher.detach() / temperature).softmax(1))


def labels_loss(logits: Float[Tensor, "batch classes"], label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """The mean cross-entropy of the images that have a label; 0 where none has.

    Args:
        logits: Unnormalised.
        label: The class, or -1 where it is not known.
    """
    known = (label != UNLABELLED).sum().clamp(min=1)
    return functional.cross_entropy(logits, label, ignore_index=UNLABELLED, reduction="sum") / known


class SimCLRv2(SimCLR):
    """A classifier that learns from views of all images, then from few labels, and then teaches a student.

    Training images without a label have the label -1, such as those that `?labelled=0.1` leaves without.

    Args:
        tune_from: The layer of the projection head whose output is fine-tuned from, 1 or 2; 0 for the encoder's output.
        student: Name of the student's network, as `pinakes.nn.backbones` reads it; empty for that of the teacher.
        pre_share: Share of the steps of training that learn from views, from 0 and below 1.
        tune_share: Share that learns from labels, above 0 and at most 1; what is left is the student's, and where
            nothing is left there is none.
        distillation_temperature: What logits of teacher and student are divided by, above 0.
        alpha: Weight of what the teacher says beside the labels, which get the rest, above 0 and at most 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    task_name = "classification"
    training_defaults = {"steps": 2000, "batch_size": 64}

    def __init__(
        self,
        tune_from: int = 1,
        student: str = "",
        pre_share: float = 0.5,
        tune_share: float = 0.1,
        distillation_temperature: float = 1.0,
        alpha: float = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if tune_from not in range(LAYERS):
            raise UserError(f"tune_from: expected a whole number from 0 to {LAYERS - 1}, got {tune_from}")
        if not 0 <= pre_share < 1:
            raise UserError(f"pre_share: expected a share from 0 and below 1, got {pre_share}")
        if not 0 < tune_share <= 1 - pre_share + 1e-6:
            raise UserError(
                f"tune_share: expected a share above 0 and at most {1 - pre_share:g}, which pre_share leaves, got "
                f"{tune_share}"
            )
        if not distillation_temperature > 0:
            raise UserError(
                f"distillation_temperature: expected a number above 0, got {distillation_temperature}"
            )
        if not 0 < alpha <= 1:
            raise UserError(f"alpha: expected a share above 0 and at most 1, got {alpha}")
        self.tune_from, self.student_name = tune_from, student or self.backbone_name
        self.pre_share, self.tune_share = pre_share, tune_share
        self.distillation_temperature, self.alpha = distillation_temperature, alpha
        self._labelled: SampleSet | None = None

    def build(self, info: DataInfo) -> None:
        """Makes the teacher, an encoder with a projection head and a linear layer, and a student if there is one."""
        super().build(info)
        self.head = projection_head([*[self.width] * LAYERS, self.projection], last_norm=True)
        self.classifier = nn.Linear(self.width, len(info.classes))
        if self.has_student:
            self.student = ImageClassifier(self.student_name, len(info.classes), info.channels)

    @property
    def has_student(self) -> bool:
        """Whether there is a student."""
        return self.stage_shares()[2] > 0

    @property
    def student_answers(self) -> bool:
        """Whether answers are the student's: while it learns, and when training is over."""
        return self.has_student and self.stage in (None, 2)

    # -- answers ---------------------------------------------------------------------------------------------

    def teacher_logits(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """What the fine-tuned network says of images, from a layer of its projection head."""
        # a layer is a linear map, a normalisation and a ReLU
        logits: Tensor = self.classifier(self.head[: 3 * self.tune_from](self.pooled(image)))
        return logits

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """The probability of each class, and the most probable one."""
        image = self.sized(batch["image"])
        logits = self.student(image) if self.student_answers else self.teacher_logits(image)
        return answer(logits, self.info.classes)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the last feature map, and the map, of the network that answers."""
        if not self.student_answers:
            return super().encode(image)
        maps = self.student.maps(image)
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The network that answers, with the levels that timm gives it."""
        if not self.student_answers:
            return super().as_backbone(layers)
        return ConvolutionalLevels(self.student.backbone, self.student_name, self.info.channels, layers)

    # -- the three stages ------------------------------------------------------------------------------------

    def stage_shares(self) -> tuple[float, float, float]:
        """Views, labels, the student."""
        left = 1 - self.pre_share - self.tune_share
        return self.pre_share, self.tune_share, left if left > 1e-6 else 0.0

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains in three stages.

        Raises:
            UserError: If no training image has a label.
        """
        rows = [i for i, label in enumerate(labels_of(data.train)) if label not in (None, UNLABELLED)]
        if not rows:
            raise UserError(
                f"{data.spec}: {type(self).__name__} is fine-tuned on labels, and no training image has one; put some "
                "images into a folder for each class"
            )
        self._labelled = chosen(data.train, rows)
        super().learn(data, plan)
        self._labelled = None

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of the stage; outside of a fit nothing says which one it is, and it is the sum of all."""
        wanted = [
            share > 0 if self.stage is None else number == self.stage
            for number, share in enumerate(self.stage_shares())
        ]
        steps = self.loss_of_views, self.loss_of_labels, self.loss_of_student
        return torch.stack([step(batch) for step, wants in zip(steps, wanted, strict=True) if wants]).sum()

    def loss_of_views(self, batch: Batch) -> Float[Tensor, ""]:
        """How badly views find the other ones of their images."""
        return self.loss(self.sized(batch["image"]))

    def loss_of_labels(self, batch: Batch) -> Float[Tensor, ""]:
        """The cross-entropy of as many labelled images as the batch has; outside of a fit, of the batch's own."""
        if self._labelled is not None:
            places = torch.randint(len(self._labelled), (len(batch["image"]),)).tolist()
            batch = self.task.collate([self._labelled[place] for place in places])
        logits = self.teacher_logits(self.cropped(batch["image"].to(self.device)))
        return labels_loss(logits, batch["label"].to(self.device))

    def loss_of_student(self, batch: Batch) -> Float[Tensor, ""]:
        """How far the student is from the fixed teacher, and from labels where they count."""
        image = self.cropped(batch["image"])
        logits = self.student(image)
        loss = self.alpha * distillation_loss(logits, self.taught(image), self.distillation_temperature)
        return loss if self.alpha == 1 else loss + (1 - self.alpha) * labels_loss(logits, batch["label"])

    @torch.no_grad()
    def taught(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """What the teacher says, by the batch statistics that it has learnt."""
        parts = self.encoder, self.head
        for part in parts:
            part.eval()
        logits = self.teacher_logits(image)
        for part in parts:
            part.train(self.training)
        return logits

    def cropped(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Images of the method's size, cropped and mirrored at random."""
        return flipped(randomly_cropped(self.sized(image), (self.least_area, 1.0)))


CLAIM_FEW_LABELS = f"{CLAIM_DATA}&labelled=0.1"
"""A tenth of the images of every class with a label."""


def _without_student(tune_from: int = 1) -> SimCLRv2:
    return SimCLRv2(tune_from=tune_from, pre_share=0.9, tune_share=0.1)


@claim(
    text="Fine-tuning from the first layer of the projection head gives a more accurate classifier than fine-tuning "
    "from the encoder's output.",
    where="section 3.3, figure 5",
    higher_is_better=True,
)
def tuning_from_the_head_beats_tuning_from_the_encoder(lab: Lab) -> Trial:
    """Handwritten digits, of which a tenth have a label; no student on either side."""
    return lab.duel(
        ours=_without_student,
        baseline=lambda: _without_student(tune_from=0),
        data=CLAIM_FEW_LABELS,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="A student of the same form that learnt from the fine-tuned network on all images is more accurate than a "
    "fine-tuned network that had the student's steps for its pretraining.",
    where="section 3.4, table 2 and figure 6",
    higher_is_better=True,
)
def distillation_beats_longer_pretraining(lab: Lab) -> Trial:
    """As above; equal steps in all, and as many on labels."""
    return lab.duel(
        ours=SimCLRv2, baseline=_without_student, data=CLAIM_FEW_LABELS, metric="accuracy", **CLAIM_PLAN
    )
