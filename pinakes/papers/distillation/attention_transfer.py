r"""Zagoruyko and Komodakis, Paying More Attention to Attention: Improving the Performance of Convolutional Neural
Networks via Attention Transfer, ICLR 2017, arXiv:1612.03928.

Where the activations of a layer are strong is where a network looks. A student that learns to look where its teacher
looks, at several depths, answers better than with the labels alone; how many channels either has does not matter.

What the code follows, with A a feature map of C channels:

- Section 3.1, `attention`: F(A) = sum_c |A_c|^p at every place, p = 2, as a vector Q of length 1.
- Equation 2, `attention_distance`: L = CE + beta sum_j ||Q_S^j - Q_T^j||^2, over the levels j of the networks. Maps of
  different sizes are brought to one.

As in the authors' code (github.com/szagoruyko/attention-transfer), the distance is the mean of the squared differences
over places and images, and beta = 1000 multiplies it whole; the paper writes beta / 2, and beta as 1000 divided by the
number of places and images.

Differences from the paper: of two attention maps, the larger is averaged to the size of the smaller; the paper says
that one may interpolate. A map of fewer than 64 places counts as if it had 64, the fewest of the networks for CIFAR
that beta was chosen for: since Q has length 1, the mean grows as places become few, and in a map of 2 x 2 it would
drown the labels.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_PLAN, Distiller, in_smaller_size
from pinakes.papers.distillation.classifier import Answer, labelled_cross_entropy
from pinakes.papers.distillation.cross_entropy import CrossEntropy

EQUATIONS = (
    ("Section 3.1", r"Q = F(A) / \lVert F(A) \rVert_2, \quad F(A) = \sum_{c=1}^{C} |A_c|^p"),
    ("Equation 2", r"L = \mathrm{CE} + \beta \sum_j \lVert Q_S^j - Q_T^j \rVert_2^2"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LEAST_PLACES = 64
"""By how many places a squared distance is divided at least."""


def attention(
    features: Float[Tensor, "batch channels rows columns"], power: float = 2.0
) -> Float[Tensor, "batch rows columns"]:
    """F(A): how strong the activations of each place are, the mean over the channels of their absolute values' power.

    Args:
        features: A.
        power: p, above 0; the larger, the more the strongest channels count.

    Source: section 3.1. The mean stands for the sum: the scale does not matter behind it.

    Example:
        >>> attention(torch.tensor([[[[1.0]], [[-3.0]]]]))
        tensor([[[5.]]])
    """
    return features.abs().pow(power).mean(1)


def attention_distance(
    student: Float[Tensor, "batch _channels rows columns"],
    teacher: Float[Tensor, "batch channels _rows _columns"],
    power: float = 2.0,
) -> Float[Tensor, ""]:
    """The squared difference of two attention maps, each of length 1, the mean over their places and the images.

    Maps of fewer than 64 places are divided by 64.

    Args:
        student: A level of its features.
        teacher: One of the teacher's; it may have another size.
        power: p of `attention`.

    Source: equation 2, as in the authors' code.

    Example:
        >>> features = torch.rand(2, 8, 4, 4)
        >>> attention_distance(features, 3 * features) < 1e-12
        tensor(True)
    """
    looks = in_smaller_size(attention(student, power), attention(teacher, power))
    said, told = (functional.normalize(each.flatten(1)) for each in looks)
    return (said - told).square().sum(1).mean() / max(said.shape[1], LEAST_PLACES)


class AttentionTransfer(Distiller):
    """A student that learns the labels, and to look where the teacher looks.

    Args:
        beta: Weight of the attention against the labels.
        power: p, to which absolute values of activations are raised.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, beta: float = 1000.0, power: float = 2.0, **shared: Any) -> None:
        super().__init__(**shared)
        if beta < 0:
            raise UserError(f"beta: expected 0 or more, got {beta}")
        if not power >= 1:
            raise UserError(f"power: expected 1 or more, got {power}")
        self.beta = beta
        self.power = power

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The cross-entropy, plus the distances of attention at every level."""
        pairs = zip(student.levels, teacher.levels, strict=True)
        distances = torch.stack([attention_distance(*pair, self.power) for pair in pairs])
        return labelled_cross_entropy(student.logits, label) + self.beta * distances.sum()


@claim(
    text="A student that learns where its teacher looks is more accurate than one that learns the labels alone.",
    where="section 4.1, table 1",
    higher_is_better=True,
)
def attention_transfer_beats_labels_alone(lab: Lab) -> Trial:
    """Made scenes of single objects, a twelfth as many parameters in the student as in the teacher."""
    return lab.duel(
        ours=AttentionTransfer, baseline=CrossEntropy, data=CLAIM_DATA, metric="accuracy", **CLAIM_PLAN
    )
