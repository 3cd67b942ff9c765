r"""Bardes et al., VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning, ICLR 2022,
arXiv:2105.04906.

What a network says of two views of an image should be the same. That it does not say the same of all images is asked
for by itself, and of each view by itself: every number must vary over the batch, and different numbers must not vary
together.

What the code follows, in `vicreg_loss`:

- Section 4.1, `lack_of_variance`: v, equations 1 and 2; `covariance_penalty`: c, equations 3 and 4; s, equation 5, the
  squared distance of the views; equation 6, their sum with the weights lambda, mu and nu.
- The size of the terms as in github.com/facebookresearch/vicreg: s is the mean over numbers, too, and v the mean of
  both views. The default weights belong to that.
- Section 4.2, `ComparesStatistics`: an expander of three layers of equal width, the first two with batch normalisation
  and ReLU; each view goes through the network by itself.

Differences from the paper: a small network and batch, AdamW in place of LARS, an expander of 256 in place of 8192; no
blur or solarisation by default.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gathering import gathered
from pinakes.papers.self_supervised.base import CLAIM_PLAN
from pinakes.papers.self_supervised.views import CLAIM_DATA, ComparesStatistics, Untrained

EQUATIONS = (
    ("Equation 1", r"v(Z) = \frac{1}{d} \sum_j \max(0, 1 - \sqrt{\mathrm{Var}(z^j) + \epsilon})"),
    ("Equation 4", r"c(Z) = \frac{1}{d} \sum_{i \neq j} [C(Z)]_{i,j}^2"),
    ("Equation 6", r"\ell(Z, Z') = \lambda s(Z, Z') + \mu [v(Z) + v(Z')] + \nu [c(Z) + c(Z')]"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def vicreg_loss(
    one: Float[Tensor, "batch width"],
    other: Float[Tensor, "batch width"],
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> Float[Tensor, ""]:
    """Distance of two views, lack of variance and covariance; the latter two over the samples of all processes.

    Args:
        one: Projections of a view of each image, at least two in all.
        other: Those of another view of the same images.
        invariance: Lambda, the weight of the distance.
        variance: Mu, the weight of the lack of variance.
        covariance: Nu, the weight of the covariance.

    Source: equation 6.

    Example:
        >>> vicreg_loss(views := torch.tensor([[2.0, 2], [2, -2], [-2, 2], [-2, -2]]), views)
        tensor(0.)
    """
    distance = functional.mse_loss(one, other)
    views = gathered(one), gathered(other)
    lack = torch.stack([lack_of_variance(each) for each in views]).mean()
    penalty = torch.stack([covariance_penalty(each) for each in views]).sum()
    return invariance * distance + variance * lack + covariance * penalty


def lack_of_variance(rows: Float[Tensor, "samples width"], epsilon: float = 1e-4) -> Float[Tensor, ""]:
    """How much the deviation of each number falls short of 1, the mean over numbers.

    Args:
        rows: At least two.
        epsilon: Is added to variances.

    Source: equations 1 and 2.
    """
    return (1 - (rows.var(0) + epsilon).sqrt()).relu().mean()


def covariance_penalty(rows: Float[Tensor, "samples width"]) -> Float[Tensor, ""]:
    """The squared covariances of different numbers, summed and divided by how many numbers there are.

    Args:
        rows: At least two.

    Source: equations 3 and 4.
    """
    centred = rows - rows.mean(0)
    found = centred.T @ centred / (len(rows) - 1)
    return (found.square().sum() - found.diagonal().square().sum()) / rows.shape[1]


class VICReg(ComparesStatistics):
    """A convolutional network that says the same of two views, and something else of other images.

    Args:
        invariance: Lambda, the weight of the distance of two views, 0 or more.
        variance: Mu, the weight of what the deviation of each number lacks, 0 or more.
        covariance: Nu, the weight of squared covariances, 0 or more.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
        for name, weight in self.weights.items():
            if weight < 0:
                raise UserError(f"{name}: expected 0 or more, got {weight}")

    def compare(
        self, one: Float[Tensor, "batch _projection"], other: Float[Tensor, "batch _projection"]
    ) -> Float[Tensor, ""]:
        """The weighted sum of the three terms."""
        return vicreg_loss(one, other, **self.weights)


@claim(
    text="A linear classifier reads more from features that learnt to be alike in two views, vary and not covary than "
    "from random ones.",
    where="implied by the linear probes of section 5.1, table 1",
    higher_is_better=True,
)
def invariance_variance_and_covariance_teach(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides."""
    return lab.duel(ours=VICReg, baseline=Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)
