r"""Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv:2203.08679.

The divergence between what a teacher and a student say of an image is a sum of two: how sure each is of the true class
(target-class distillation, TCKD), and how each spreads the rest over the other classes (non-target, NCKD). In the sum
NCKD is weighted by what the teacher leaves to the other classes, so that it counts least where the teacher is surest,
though that is where it is most to be trusted. Here each has a weight of its own.

What the code follows, with p the softmax of logits / T and t the true class:

- Section 3.1, `target_class_divergence`: b = (p_t, 1 - p_t), TCKD = KL(b^T || b^S).
- Section 3.1, `other_classes_divergence`: p^_i = p_i / (1 - p_t) for i != t, NCKD = KL(p^^T || p^^S).
- Equation 6: KD = TCKD + (1 - p_t^T) NCKD.
- Equation 7, `decoupled_distillation`: DKD = alpha TCKD + beta NCKD.
- The whole loss is the cross-entropy of the labels plus T^2 DKD, of which the latter is raised linearly over the first
  epochs (section A.1 and the authors' code, github.com/megvii-research/mdistiller).

Differences from the paper: the rise takes the first tenth of training, which is about the 20 of 240 epochs of the
authors' settings for CIFAR-100. Images without a label are left out of both terms, which need the true class.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller
from pinakes.papers.distillation.classifier import WARM_UP, Answer, labelled_cross_entropy
from pinakes.papers.distillation.kd import KD
from pinakes.tasks.classification import UNLABELLED

EQUATIONS = (
    ("Section 3.1", r"\mathrm{TCKD} = \mathrm{KL}(b^T \,\|\, b^S), \quad b = (p_t, 1 - p_t)"),
    (
        "Section 3.1",
        r"\mathrm{NCKD} = \mathrm{KL}(\hat p^T \,\|\, \hat p^S), \quad \hat p_i = p_i / (1 - p_t), i \ne t",
    ),
    ("Equation 6", r"\mathrm{KD} = \mathrm{TCKD} + (1 - p_t^T) \, \mathrm{NCKD}"),
    ("Equation 7", r"\mathrm{DKD} = \alpha \, \mathrm{TCKD} + \beta \, \mathrm{NCKD}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def target_class_divergence(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    label: Int[Tensor, " batch"],
    temperature: float = 4.0,
) -> Float[Tensor, " batch"]:
    """TCKD of each image: the divergence between how sure teacher and student are of the true class.

    Args:
        student: Its logits.
        teacher: Its logits.
        label: The true class.
        temperature: T, above 0.

    Source: section 3.1.
    """
    said, told = (_target_and_rest(logits / temperature, label) for logits in (student, teacher))
    return (told.exp() * (told - said)).sum(1)


def other_classes_divergence(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    label: Int[Tensor, " batch"],
    temperature: float = 4.0,
) -> Float[Tensor, " batch"]:
    """NCKD of each image: the divergence between how teacher and student rank the classes that are not the true one.

    Args:
        student: Its logits.
        teacher: Its logits.
        label: The true class.
        temperature: T, above 0.

    Source: section 3.1.
    """
    true = functional.one_hot(label, student.shape[1]).bool()
    said, told = (
        (logits / temperature).masked_fill(true, -torch.inf).log_softmax(1).masked_fill(true, 0.0)
        for logits in (student, teacher)
    )
    return (told.exp() * (told - said)).sum(1)


def decoupled_distillation(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    label: Int[Tensor, " batch"],
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    """T^2 (alpha TCKD + beta NCKD), the mean over the batch.

    Args:
        student: Its logits.
        teacher: Its logits.
        label: The true class.
        alpha: Weight of the true class against the rest.
        beta: Weight of the other classes among themselves.
        temperature: T, above 0.

    Source: equation 7.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> decoupled_distillation(logits, logits + 5, torch.tensor([0]))
        tensor(0.)
    """
    target = target_class_divergence(student, teacher, label, temperature)
    others = other_classes_divergence(student, teacher, label, temperature)
    return temperature**2 * (alpha * target + beta * others).mean()


def _target_and_rest(
    logits: Float[Tensor, "batch classes"], label: Int[Tensor, " batch"]
) -> Float[Tensor, "batch 2"]:
    """The logarithms of the probability of the true class and of that of all others together."""
    target = logits.gather(1, label[:, None])
    rest = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([target, rest], dim=1) - logits.logsumexp(1, keepdim=True)


class DKD(Distiller):
    """A student that learns the labels, the teacher's sureness of them and, on its own, its view of the other classes.

    Args:
        alpha: Weight of TCKD.
        beta: Weight of NCKD; the paper takes 0.5 to 8, more where the teacher's logits are sharper.
        temperature: T of both.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, **shared: Any
    ) -> None:
        super().__init__(**shared)
        for name, value in (("alpha", alpha), ("beta", beta)):
            if value < 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The cross-entropy, plus the decoupled distillation as far as it is warmed up."""
        learnt = labelled_cross_entropy(student.logits, label)
        known = label != UNLABELLED
        if not known.any():
            return learnt
        told = decoupled_distillation(
            student.logits[known],
            teacher.logits[known],
            label[known],
            self.alpha,
            self.beta,
            self.temperature,
        )
        return learnt + min(1.0, self.done / WARM_UP) * told


@claim(
    text="A student taught by DKD is more accurate than one taught by KD at the same temperature.",
    where="abstract and tables 6 to 8",
    higher_is_better=True,
)
def dkd_beats_kd(lab: Lab) -> Trial:
    """Made scenes of single objects, a twelfth as many parameters in the student as in the teacher."""
    return lab.duel(
        ours=DKD, baseline=lambda: KD(temperature=4.0), data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN
    )


@claim(
    text="The other classes alone (NCKD) teach more than the true class alone (TCKD).",
    where="section 3.2, table 1",
    higher_is_better=True,
)
def other_classes_teach_more_than_the_true_one(lab: Lab) -> Trial:
    """As above, both sides without the other's term."""
    return lab.duel(
        ours=lambda: DKD(alpha=0.0, beta=1.0),
        baseline=lambda: DKD(alpha=1.0, beta=0.0),
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )
