r"""Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.

What a large network holds for the second and third most probable class says how it generalises. A small network that
learns these probabilities, softened by a temperature so that the small ones count, learns more from an image than its
label tells.

What the code follows, with logits z of the student, v of the teacher, and temperature T:

- Equation 1: q_i = exp(z_i / T) / sum_j exp(z_j / T).
- Section 2, `pinakes.papers.distillation.base.distillation_divergence`: T^2 times the divergence of the softened
  probabilities, beside the cross-entropy of the labels, each with a weight. T^2 keeps the gradients of the two in
  proportion when T is changed.

Differences from the paper: the divergence stands for the cross-entropy with soft targets, which has the same gradients.
The weights 0.9 and 0.1 and T = 4 are those common in the literature since (Tian et al., arXiv:1910.10699); the paper
only says that the labels should have the lower weight.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller, distillation_divergence
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.cross_entropy import CrossEntropy

EQUATIONS = (
    ("Equation 1", r"q_i = \frac{e^{z_i / T}}{\sum_j e^{z_j / T}}"),
    ("Section 2", r"L = (1 - w) \, \mathrm{CE}(z, t) + w \, T^2 \, \mathrm{KL}(q^T \,\|\, q^S)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


class KD(Distiller):
    """A student that learns the teacher's softened probabilities beside the labels.

    Args:
        temperature: T of the softened probabilities.
        weight: w, the share of the teacher in the loss, 0 to 1; the labels have the rest.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, temperature: float = 4.0, weight: float = 0.9, **shared: Any) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if not 0 <= weight <= 1:
            raise UserError(f"weight: expected a share from 0 to 1, got {weight}")
        self.temperature = temperature
        self.weight = weight

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The weighted sum of what the labels and the teacher say."""
        told = distillation_divergence(student.logits, teacher.logits, self.temperature)
        return (1 - self.weight) * labelled_cross_entropy(student.logits, label) + self.weight * told


@claim(
    text="A student taught by a teacher's softened probabilities is more accurate than one that learns the labels "
    "alone.",
    where="sections 3 and 4",
    higher_is_better=True,
)
def kd_beats_labels_alone(lab: Lab) -> Trial:
    """Made scenes of single objects, a twelfth as many parameters in the student as in the teacher."""
    return lab.duel(ours=KD, baseline=CrossEntropy, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN)
