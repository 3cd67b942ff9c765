r"""Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML 2021, arXiv:2103.03230.

Over a batch, each number that a head says of one view of an image should go along with the same number of the other
view, and with no other number. So the cross-correlation of the two is drawn to the identity: its diagonal makes
features the same in both views, the rest of it makes them say different things.

What the code follows:

- Section 2.1, `barlow_twins_loss`: equations 1 and 2. Numbers are normalised over the batch by the variance of the
  batch itself, as in the batch normalisation of github.com/facebookresearch/barlowtwins.
- Section 2.2, `ComparesStatistics`: a head of three layers of equal width, the first two with batch normalisation and
  ReLU; each view goes through the network by itself.

Differences from the paper: a small network and batch, AdamW in place of LARS, a head of 256 in place of 8192. Both
views are drawn alike: in blur and solarisation, which are off by default for small images, the paper's two differ.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gathering import gathered
from pinakes.papers.self_supervised.base import CLAIM_PLAN
from pinakes.papers.self_supervised.views import CLAIM_DATA, ComparesStatistics, Untrained

EQUATIONS = (
    (
        "Equation 1",
        r"\mathcal{L}_{BT} = \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \neq i} C_{ij}^2",
    ),
    (
        "Equation 2",
        r"C_{ij} = \frac{\sum_b z^A_{b,i} z^B_{b,j}}"
        r"{\sqrt{\sum_b (z^A_{b,i})^2} \sqrt{\sum_b (z^B_{b,j})^2}} \text{, of centred } z",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def barlow_twins_loss(
    one: Float[Tensor, "batch width"], other: Float[Tensor, "batch width"], trade_off: float = 0.005
) -> Float[Tensor, ""]:
    """How far the cross-correlation of two views is from the identity; over the samples of all processes.

    Args:
        one: Projections of a view of each image, at least two in all.
        other: Those of another view of the same images.
        trade_off: Lambda, the weight of what is off the diagonal.

    Source: equations 1 and 2.

    Example:
        >>> barlow_twins_loss(views := torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]), views).round(decimals=3)
        tensor(0.)
    """
    one, other = standardised(gathered(one)), standardised(gathered(other))
    correlation = one.T @ other / len(one)
    agreement = correlation.diagonal()
    redundancy = correlation.square().sum() - agreement.square().sum()
    return (1 - agreement).square().sum() + trade_off * redundancy


def standardised(
    rows: Float[Tensor, "samples width"], epsilon: float = 1e-5
) -> Float[Tensor, "samples width"]:
    """Rows with mean 0 and variance 1 in each column.

    Args:
        rows: At least two.
        epsilon: Is added to variances.
    """
    variance, mean = torch.var_mean(rows, dim=0, correction=0)
    return (rows - mean) / (variance + epsilon).sqrt()


class BarlowTwins(ComparesStatistics):
    """A convolutional network whose projections of two views correlate number by number.

    Args:
        trade_off: Lambda, the weight of correlations between different numbers, 0 or more.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, trade_off: float = 0.005, **shared: Any) -> None:
        super().__init__(**shared)
        if trade_off < 0:
            raise UserError(f"trade_off: expected 0 or more, got {trade_off}")
        self.trade_off = trade_off

    def compare(
        self, one: Float[Tensor, "batch _projection"], other: Float[Tensor, "batch _projection"]
    ) -> Float[Tensor, ""]:
        """How far their cross-correlation is from the identity."""
        return barlow_twins_loss(one, other, self.trade_off)


@claim(
    text="A linear classifier reads more from features whose cross-correlation between views learnt to be the identity "
    "than from random ones.",
    where="implied by the linear probes of section 3.1, table 1",
    higher_is_better=True,
)
def reducing_redundancy_teaches(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides."""
    return lab.duel(
        ours=BarlowTwins, baseline=Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN
    )
