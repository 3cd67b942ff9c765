r"""Grill et al., Bootstrap your own latent: A new approach to self-supervised Learning, NeurIPS 2020, arXiv:2006.07733.

A network sees a view of an image and foretells what a slow copy of itself says of another view. No image is held
against any other. A constant answer would be foretold best, and yet the two do not end there, as long as there is a
predictor on the one side and a slow copy on the other.

What the code follows:

- Section 3.1, `byol_loss`: equation 2, the squared distance of normalised prediction and target; either view foretells
  the other, summed.
- Section 3.1, `MomentumCopy`: equation 1, xi <- tau xi + (1 - tau) theta after every step, of encoder and head.
- Section 3.2, `momentum_at`: tau rises from its start to 1 as a cosine; `projection_head`: head and predictor of two
  layers with batch normalisation and ReLU between them.

Differences from the paper: a small network and batch, narrow layers, AdamW in place of LARS. The momentum starts at
0.99, as in the paper's shorter trainings, in place of 0.996. Both views are drawn alike: in blur and solarisation,
which are off by default for small images, the paper's two differ.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.self_supervised.base import CLAIM_PLAN
from pinakes.papers.self_supervised.views import CLAIM_DATA, PredictsTarget, Untrained

EQUATIONS = (
    ("Equation 1", r"\xi \leftarrow \tau \xi + (1 - \tau) \theta"),
    (
        "Equation 2",
        r"\mathcal{L}_{\theta, \xi} = \lVert \bar q_\theta(z_\theta) - \bar z'_\xi \rVert_2^2 = 2 - 2 \cdot "
        r"\frac{\langle q_\theta(z_\theta), z'_\xi \rangle}"
        r"{\lVert q_\theta(z_\theta) \rVert_2 \cdot \lVert z'_\xi \rVert_2}",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def byol_loss(
    prediction: Float[Tensor, "batch width"], target: Float[Tensor, "batch width"]
) -> Float[Tensor, ""]:
    """The squared distance of normalised predictions and targets, the mean over the batch: 0 to 4.

    Args:
        prediction: What the predictor says of a view of each image.
        target: What the slow copy says of another view of the same images; no gradient flows to it.

    Source: equation 2, of one direction.

    Example:
        >>> import torch
        >>> byol_loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, -3.0]]))
        tensor(2.)
    """
    one, other = functional.normalize(prediction, dim=1), functional.normalize(target.detach(), dim=1)
    return (one - other).square().sum(1).mean()


class BYOL(PredictsTarget):
    """A convolutional network that foretells what a slow copy of it says of the other view.

    Args:
        momentum: Tau, the share of its weights that the copy keeps in a step, 0 to 1, at the start; it rises to 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, momentum: float = 0.99, **shared: Any) -> None:
        super().__init__(momentum=momentum, **shared)

    def compare(
        self, prediction: Float[Tensor, "batch _projection"], target: Float[Tensor, "batch _projection"]
    ) -> Float[Tensor, ""]:
        """How far predictions are from what they foretell."""
        return byol_loss(prediction, target)


@claim(
    text="A linear classifier reads more from features that learnt to foretell a slow copy's answer to the other view "
    "than from random ones.",
    where="implied by the linear probes of section 4, table 1",
    higher_is_better=True,
)
def foretelling_a_slow_copy_teaches(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides."""
    return lab.duel(ours=BYOL, baseline=Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)
