r"""Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, arXiv:2002.05709.

Two random views of each image go through an encoder and a small head. Each view is to find the other one of its image
among all views of the batch; to do so the encoder must say what is in the picture, whatever part of it is shown in
whatever colours. The head is then dropped.

What the code follows:

- Section 2.1, `nt_xent_loss` of `pinakes.nn.contrastive`: equation 1, averaged over both views of all images.
- Appendix A, `FromViews.view`: random crops, mirrored, with their colours changed.
- Section 4.2, `projection_head`: z = W2 relu(W1 h), and features are read from h, before it.

Differences from the paper: a small network and batch; AdamW in place of LARS; batch normalisation in the head, as in
github.com/google-research/simclr, which normalises both views together: here each goes through the network by itself,
as in BYOL's and Barlow Twins' code, which on a CPU takes less time for larger images.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.contrastive import nt_xent_loss
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.base import CLAIM_PLAN
from pinakes.papers.self_supervised.views import CLAIM_DATA, SHORT_PLAN, ConvolutionalFromViews, Untrained

EQUATIONS = (
    (
        "Equation 1",
        r"\ell_{i,j} = -\log \frac{\exp(\mathrm{sim}(z_i, z_j) / \tau)}"
        r"{\sum_{k \neq i} \exp(\mathrm{sim}(z_i, z_k) / \tau)}",
    ),
)
"""The equation above in LaTeX, for the documentation; a label opens an item of the list."""


class SimCLR(ConvolutionalFromViews):
    """A convolutional network that learns to find the other view of the same image.

    Args:
        temperature: What cosines are divided by, above 0.
        projection: Width of the head's output.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, temperature: float = 0.5, projection: int = 64, **shared: Any) -> None:
        super().__init__(**shared)
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if projection < 1:
            raise UserError(f"projection: expected a whole number of 1 or more, got {projection}")
        self.temperature, self.projection = temperature, projection

    def build(self, info: DataInfo) -> None:
        """Makes the encoder and its head."""
        super().build(info)
        self.head = projection_head([self.width, self.width, self.projection])

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly views find the other ones of their images."""
        one, other = (self.project(self.view(image)) for _ in range(2))
        return nt_xent_loss(one, other, self.temperature)

    def project(
        self, view: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch projection"]:
        """What the head says of views."""
        projected: Tensor = self.head(self.pooled(view))
        return projected


COLOURED = "scenes:classification?size=32&n=2000&others=0"
"""Made scenes of one thing each, for what is asked of colours."""


@claim(
    text="A linear classifier reads more from features that learnt to find the other view than from random ones.",
    where="implied by the linear probes of section 6, table 6",
    higher_is_better=True,
)
def finding_the_other_view_teaches(lab: Lab) -> Trial:
    """Handwritten digits; the same network on both sides."""
    return lab.duel(ours=SimCLR, baseline=Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)


@claim(
    text="Changing colours as well as cropping makes features from which a linear classifier reads more than crops "
    "alone.",
    where="section 3.1, figure 5",
    higher_is_better=True,
)
def colour_changes_help(lab: Lab) -> Trial:
    """Made scenes of single objects; the same network on both sides."""
    return lab.duel(
        ours=SimCLR,
        baseline=lambda: SimCLR(colour=0.0, grey=0.0),
        data=COLOURED,
        metric="linear_probe",
        **SHORT_PLAN,
    )
