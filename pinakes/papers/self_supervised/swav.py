r"""Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020,
arXiv:2006.09882.

Views are not compared with one another, but with a set of prototypes that are learnt. Which prototypes a view belongs
to is computed for the whole batch so that all prototypes get the same share. Each view is then to foretell the
assignment of the other view of its image. As this costs little per view, many small crops foretell as well.

What the code follows:

- Section 3.1, `swav_loss`: equations 1 and 2, the cross-entropy of codes and softmax(z c / tau); codes by equation 3,
  `sinkhorn_knopp`, three rounds on scores over epsilon, with soft codes.
- Section 3.2, equation 6: large views give codes, and all views but the one itself foretell them.
- Section 4 and github.com/facebookresearch/swav: a head of two layers, projections and prototypes normalised; as for
  the prototypes, the first steps leave them as they are.

Differences from the paper: a small network and batch, few prototypes, AdamW in place of LARS. Small crops are half as
large as images, and there are none by default, nor are codes as soft as in the paper: with either the loss stayed at
the logarithm of the number of prototypes on images of 32 pixels, which was tried with a seed that no claim uses. There
is no queue of earlier projections, which the paper has for batches smaller than the number of prototypes. Prototypes
are normalised where they are used, not in place before every step.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.assignment import sinkhorn_knopp
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.base import CLAIM_PLAN
from pinakes.papers.self_supervised.views import CLAIM_DATA, ConvolutionalFromViews, Untrained

EQUATIONS = (
    (
        "Equation 2",
        r"\ell(z_t, q_s) = -\sum_k q_s^{(k)} \log p_t^{(k)}, \quad p_t^{(k)} = "
        r"\frac{\exp(z_t^\top c_k / \tau)}{\sum_{k'} \exp(z_t^\top c_{k'} / \tau)}",
    ),
    (
        "Equation 3",
        r"\max_{Q \in \mathcal{Q}} \mathrm{Tr}(Q^\top C^\top Z) + \varepsilon H(Q)",
    ),
    ("Equation 6", r"\sum_{i \in \{1, 2\}} \sum_{v = 1}^{V + 2} 1_{v \neq i} \, \ell(z_v, q_i)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def swav_loss(
    scores: Float[Tensor, "views batch prototypes"],
    givers: int = 2,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Float[Tensor, ""]:
    """How badly views foretell the balanced assignments of other views of the same images, the mean over all pairs.

    The samples of all processes are balanced together.

    Args:
        scores: Cosines of views and prototypes.
        givers: How many views, the first ones, give codes; the others only foretell.
        temperature: Tau, above 0.
        epsilon: How soft codes are, above 0.
        iterations: Of Sinkhorn and Knopp.

    Source: equations 2, 3 and 6; divided by the number of pairs as in the authors' code.

    Example:
        >>> scores = torch.eye(3).expand(2, 3, 3)
        >>> swav_loss(scores) < swav_loss(torch.stack([scores[0], scores[1].flip(0)]))
        tensor(True)
    """
    views, batch = scores.shape[:2]
    codes = torch.stack([sinkhorn_knopp(each / epsilon, iterations) for each in scores[:givers].detach()])
    told = (scores / temperature).log_softmax(2)
    losses = -torch.einsum("ibk,vbk->iv", codes, told) / batch
    return (losses.sum() - losses.diagonal().sum()) / (givers * (views - 1))


class SwAV(ConvolutionalFromViews):
    """A convolutional network that foretells to which prototypes another view belongs.

    Args:
        prototypes: How many, 2 or more; at most as many as a batch has images is advised.
        crops: Small crops of each image beside its two views; 6 in the paper, for images of 224 pixels.
        small_area: The smallest share of an image's area that a small crop shows; the largest is `least_area`.
        temperature: What cosines are divided by, above 0.
        epsilon: How soft codes are, above 0; 0.05 in the paper.
        frozen: The share of training, at its start, in which prototypes are not trained, from 0 and below 1.
        projection: Width of what is compared with prototypes.
        hidden: Width of the head's hidden layer.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        prototypes: int = 32,
        crops: int = 0,
        small_area: float = 0.1,
        temperature: float = 0.1,
        epsilon: float = 0.02,
        frozen: float = 0.01,
        projection: int = 64,
        hidden: int = 256,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, count, least in (
            ("prototypes", prototypes, 2),
            ("crops", crops, 0),
            ("projection", projection, 1),
            ("hidden", hidden, 1),
        ):
            if count < least:
                raise UserError(f"{name}: expected a whole number of {least} or more, got {count}")
        for name, value in (("temperature", temperature), ("epsilon", epsilon)):
            if not value > 0:
                raise UserError(f"{name}: expected a number above 0, got {value}")
        if not 0 < small_area <= self.least_area:
            raise UserError(
                f"small_area: expected a share above 0 and at most least_area, {self.least_area}, got {small_area}"
            )
        if not 0 <= frozen < 1:
            raise UserError(f"frozen: expected a share from 0 and below 1, got {frozen}")
        self.count, self.crops, self.small_area = prototypes, crops, small_area
        self.temperature, self.epsilon, self.frozen = temperature, epsilon, frozen
        self.projection, self.hidden = projection, hidden

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, its head and the prototypes."""
        super().build(info)
        self.head = projection_head([self.width, self.hidden, self.projection])
        self.prototypes = nn.Linear(self.projection, self.count, bias=False)

    def scores(self, view: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch prototypes"]:
        """The cosines of views and prototypes."""
        projected = functional.normalize(self.head(self.pooled(view)), dim=1)
        return projected @ functional.normalize(self.prototypes.weight, dim=1).T

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly two views and small crops foretell the assignments of the views."""
        large = torch.cat([self.view(image), self.view(image)])
        found = [self.scores(large)]
        if self.crops:
            area, size = (self.small_area, self.least_area), (image.shape[2] // 2, image.shape[3] // 2)
            small = torch.cat([self.view(image, area, size) for _ in range(self.crops)])
            found.append(self.scores(small))
        scores = torch.cat(found).unflatten(0, (-1, len(image)))
        return swav_loss(scores, 2, self.temperature, self.epsilon)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Leaves prototypes as they are at the start of training."""
        if self.done < self.frozen:
            self.prototypes.weight.grad = None


@claim(
    text="A linear classifier reads more from features that learnt to foretell the prototypes of another view than "
    "from random ones.",
    where="implied by the linear probes of section 4.1, figure 2",
    higher_is_better=True,
)
def foretelling_prototypes_teaches(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides."""
    return lab.duel(ours=SwAV, baseline=Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)
