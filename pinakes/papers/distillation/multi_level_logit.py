r"""Jin et al., Multi-Level Logit Distillation, CVPR 2023,
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html.

Logits say more than what a teacher holds of each image alone. The products of two images' predictions say which images
it takes for alike, and the products of two classes' predictions, over a batch, which classes it confuses. The student
learns all three, each at several temperatures, so that it sees sharp and soft versions of every prediction.

What the code follows, with P_k the softmax of logits / T_k, a matrix of batch x classes:

- Prediction augmentation, `softened`: p_ijk = exp(z_ij / T_k) / sum_c exp(z_ic / T_k).
- Instance level, `instance_alignment`: L_ins = sum_k T_k^2 KL(P_k^tea || P_k^stu), the mean over images.
- Batch level, `batch_alignment`: G_k = P_k P_k^T, L_batch = 1/B sum_k ||G_k^tea - G_k^stu||_F^2.
- Class level, `class_alignment`: M_k = P_k^T P_k, L_class = 1/C sum_k ||M_k^tea - M_k^stu||_F^2.
- The whole loss is w_CE CE + w_KD (L_ins + L_batch + L_class).

The factor T_k^2, the temperatures 2 to 6 and the weights 0.1 and 0.9 are those of the authors' code for CIFAR-100
(github.com/Jin-Ying/Multi-Level-Logit-Distillation).

Differences from the authors' code: its training sees every image twice, once changed strongly (RandAugment), and adds
cross-entropy and L_ins of that view; this is a way to augment, not a part of the loss, and the methods it is held
against do without, so it is left out. The code also computes masks of the images and classes of which the teacher is
least sure, but multiplies them with losses that are already summed: all they do is to weigh the terms of the weak view
by about a half. They are left out too. The batch and the class level are scaled to what they are with the authors' 100
classes and batches of 64 (`level_scale`), if no other weights are given.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.kd import KD

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
USUAL_BATCH, USUAL_CLASSES = 64, 100
"""The setting that the authors' weights are for."""

EQUATIONS = (
    ("Prediction augmentation", r"p_{ijk} = \frac{e^{z_{ij} / T_k}}{\sum_c e^{z_{ic} / T_k}}"),
    (
        "Instance level",
        r"L_{ins} = \sum_k T_k^2 \, \mathrm{KL}(P_k^{tea} \,\|\, P_k^{stu})",
    ),
    (
        "Batch level",
        r"L_{batch} = \frac{1}{B} \sum_k \| G_k^{tea} - G_k^{stu} \|_F^2, \quad G_k = P_k P_k^\top",
    ),
    (
        "Class level",
        r"L_{class} = \frac{1}{C} \sum_k \| M_k^{tea} - M_k^{stu} \|_F^2, \quad M_k = P_k^\top P_k",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def softened(
    logits: Float[Tensor, "batch classes"], temperatures: Sequence[float] = TEMPERATURES
) -> Float[Tensor, "temperatures batch classes"]:
    """The logarithms of the probabilities at each temperature.

    Args:
        logits: Unnormalised.
        temperatures: T_k, each above 0.

    Source: prediction augmentation.
    """
    each = torch.as_tensor(temperatures, dtype=logits.dtype, device=logits.device)
    return (logits / each[:, None, None]).log_softmax(-1)


def instance_alignment(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperatures: Sequence[float] = TEMPERATURES,
) -> Float[Tensor, ""]:
    """The divergence of what student and teacher say of each image, summed over temperatures, the mean over images.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperatures: T_k, each above 0.

    Source: the instance level.
    """
    said, told = softened(student, temperatures), softened(teacher, temperatures)
    divergence = (told.exp() * (told - said)).sum(-1).mean(-1)
    return (divergence * divergence.new_tensor(temperatures) ** 2).sum()


def batch_alignment(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperatures: Sequence[float] = TEMPERATURES,
) -> Float[Tensor, ""]:
    """How far the student's products of every two images are from the teacher's, summed over temperatures.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperatures: T_k, each above 0.

    Source: the batch level.
    """
    said, told = (softened(logits, temperatures).exp() for logits in (student, teacher))
    return (told @ told.mT - said @ said.mT).square().sum() / len(student)


def class_alignment(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    temperatures: Sequence[float] = TEMPERATURES,
) -> Float[Tensor, ""]:
    """How far the student's products of every two classes are from the teacher's, summed over temperatures.

    Args:
        student: Its logits.
        teacher: Its logits.
        temperatures: T_k, each above 0.

    Source: the class level.
    """
    said, told = (softened(logits, temperatures).exp() for logits in (student, teacher))
    return (told.mT @ told - said.mT @ said).square().sum() / student.shape[1]


def level_scale(images: int, classes: int) -> float:
    """How much smaller than 1 the batch level's weight is to be, so that the level counts as much as in the paper.

    Sharp predictions agree for one in C of B images: the batch level is as large as B / C, and the class level as its
    square. Their weights of 1 were chosen for batches of 64 and 100 classes. With ten classes the levels would count 10
    and 100 times as much, and drown the labels.

    Args:
        images: B.
        classes: C.

    Example:
        >>> level_scale(64, 100), level_scale(64, 10), level_scale(512, 1000)
        (1.0, 0.1, 1.0)
    """
    return min(1.0, (USUAL_BATCH / images) * (classes / USUAL_CLASSES))


class MultiLevelLogit(Distiller):
    """A student that learns the teacher's predictions, and how they relate images and classes.

    Args:
        temperatures: T_k, at each of which all three levels are compared.
        ce_weight: w_CE, the weight of the labels.
        kd_weight: w_KD, the weight of the three levels together.
        instance: Weight of the instance level among the three.
        batch: Weight of the batch level; None for `level_scale`.
        classes: Weight of the class level; None for the square of `level_scale`.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        temperatures: Sequence[float] = TEMPERATURES,
        ce_weight: float = 0.1,
        kd_weight: float = 0.9,
        instance: float = 1.0,
        batch: float | None = None,
        classes: float | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not temperatures or not all(each > 0 for each in temperatures):
            raise UserError(f"temperatures: expected one number above 0 or more, got {tuple(temperatures)}")
        weights = {
            "ce_weight": ce_weight,
            "kd_weight": kd_weight,
            "instance": instance,
            "batch": batch,
            "classes": classes,
        }
        for name, value in weights.items():
            if value is not None and not value >= 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        self.temperatures = tuple(temperatures)
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight
        self.level_weights = (instance, batch, classes)

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The cross-entropy of the labels, and the three levels, which need none."""
        alignments = (instance_alignment, batch_alignment, class_alignment)
        scale = level_scale(len(student.logits), student.logits.shape[1])
        instance, batch, classes = self.level_weights
        weights = instance, scale if batch is None else batch, scale**2 if classes is None else classes
        told = sum(
            weight * alignment(student.logits, teacher.logits, self.temperatures)
            for weight, alignment in zip(weights, alignments, strict=True)
            if weight
        )
        return self.ce_weight * labelled_cross_entropy(student.logits, label) + self.kd_weight * told


@claim(
    text="A student taught at three levels is more accurate than one taught by KD.",
    where="abstract and the tables for CIFAR-100",
    higher_is_better=True,
)
def three_levels_beat_kd(lab: Lab) -> Trial:
    """Made scenes of single objects, both sides with the same augmentation and as many steps."""
    return lab.duel(ours=MultiLevelLogit, baseline=KD, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN)


@claim(
    text="The batch and the class level teach the student more than the instance level alone.",
    where="the ablation of the levels",
    higher_is_better=True,
)
def all_levels_beat_the_instance_level(lab: Lab) -> Trial:
    """As above; the baseline has the same temperatures and weights, but only the instance level."""
    return lab.duel(
        ours=MultiLevelLogit,
        baseline=lambda: MultiLevelLogit(batch=0.0, classes=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )
