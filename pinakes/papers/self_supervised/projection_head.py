r"""Xue et al., Investigating the Benefits of Projection Head for Representation Learning, ICLR 2024, arXiv:2403.11391.

Why are features before a head better than those behind it, which the loss is about? Each layer that is trained weights
features a little more unequally than the one below it. What the augmentation disturbs is of little use to the loss, so
it grows weak from layer to layer; the layer below the head still has it. If that is all that the head does, then
numbers that fall at a chosen rate can take its place: nothing is trained, and the rate is an open choice.

What the code follows:

- The linear networks of the theory, `spectral_contrastive_loss`: L = -2 E[f(x)^T f(x+)] + E[(f(x)^T f(x-))^2], of two
  views of one image and of views of two images.
- `layer_weights`: what gradient descent from small weights makes of L layers. Features with variance v in the views, of
  which s is shared by two views of an image, are independent of each other. The whole network weights each with
  w = sqrt(s) / v, and the first l layers with w^(l / L): the further up, the less equal.
- The fixed head, `FixedReweighting`: entry i of the embedding times kappa^-i, i from 0, as in the authors' code,
  github.com/jiayini1119/projection-head-experiments.

Differences from the paper: the closed form is derived here, from the minimum of the loss and from the balance of layers
under gradient descent, and holds for independent features and layers no narrower than their number; the paper's
theorems are stated more widely. Their experiments on supervised learning are left out. The encoder is small. kappa is
the default of one of the authors' scripts, where embeddings are wider.
"""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.gathering import gathered, rank
from pinakes.papers.self_supervised.base import CLAIM_DATA
from pinakes.papers.self_supervised.simclr import SimCLR
from pinakes.papers.self_supervised.views import SHORT_PLAN
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "Linear networks",
        r"L = -2\,\mathbb{E}[f(x)^\top f(x^+)] + \mathbb{E}[(f(x)^\top f(x^-))^2], \quad "
        r"w_i^{(l)} = (\sqrt{s_i} / v_i)^{l / L}",
    ),
    ("The fixed head", r"z_i = \kappa^{-i} h_i"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

Head = Literal["mlp", "fixed", "none"]
Place = Literal["before", "after"]


def spectral_contrastive_loss(
    one: Float[Tensor, "batch width"], other: Float[Tensor, "batch width"]
) -> Float[Tensor, ""]:
    """Views of one image are to agree, and those of different images to stand at right angles.

    The views of all processes are taken together.

    Args:
        one: What the network says of a view of each image, of two or more.
        other: What it says of another view of the same images.

    Source: HaoChen et al., Provable Guarantees for Self-Supervised Deep Learning with Spectral Contrastive Loss,
        NeurIPS 2021 (arXiv:2106.04156), equation 6; the loss of the paper's linear networks.
    """
    scores = one @ gathered(other).T
    place = rank() * len(one) + torch.arange(len(one), device=one.device)
    agreement = scores.gather(1, place[:, None])
    others = scores.square().sum() - agreement.square().sum()
    return -2 * agreement.mean() + others / (scores.numel() - len(scores))


def layer_weights(
    variance: Float[Tensor, " features"], shared: Float[Tensor, " features"], layers: int = 2
) -> Float[Tensor, "layers features"]:
    """How strongly the first 1, 2, ... layers of a linear network weight features once they have learnt.

    Args:
        variance: Of each feature over all views, above 0.
        shared: Covariance of each feature between two views of the same image; up to the variance, which it reaches
            where the augmentation leaves a feature alone.
        layers: How many layers are trained, with the head.

    Returns:
        For each layer the weight of each feature; 0 for those of which views of an image share nothing.

    Example:
        >>> layer_weights(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0625]))
        tensor([[1.0000, 0.5000],
                [1.0000, 0.2500]])
    """
    whole = shared.clamp(min=0).sqrt() / variance
    powers = torch.arange(1, layers + 1, dtype=whole.dtype, device=whole.device) / layers
    return whole ** powers[:, None]


def feature_strengths(
    representation: Float[Tensor, "samples width"], feature: Float[Tensor, "samples features"]
) -> Float[Tensor, " features"]:
    """How strongly a layer weights features that are known of each sample, and independent of each other.

    Of a linear layer these are the lengths of its columns.

    Args:
        representation: What the layer says of samples.
        feature: Their features.

    Returns:
        For each feature, how far the representation moves when it changes by 1.
    """
    centred = feature - feature.mean(0)
    slopes = centred.T @ (representation - representation.mean(0)) / centred.square().sum(0)[:, None]
    return slopes.norm(dim=1)


class FixedReweighting(nn.Module):
    """A head that is not trained: entry i of the embedding times kappa^-i.

    Args:
        width: Of the embedding.
        kappa: How fast the weights fall, 1 or more; with 1 the head does nothing.

    Example:
        >>> FixedReweighting(3, kappa=2.0)(torch.ones(1, 3))
        tensor([[1.0000, 0.5000, 0.2500]])
    """

    weight: Tensor

    def __init__(self, width: int, kappa: float) -> None:
        super().__init__()
        self.register_buffer("weight", kappa ** -torch.arange(float(width)), persistent=False)

    def forward(self, embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch width"]:
        """The embedding, with its first entries as they are and its last ones small."""
        return embedding * self.weight


class ProjectionHead(SimCLR):
    """SimCLR with a head of choice, whose features are read before or behind it.

    Args:
        head: "mlp" as SimCLR has it, "fixed" for weights that fall at a fixed rate, or "none".
        kappa: How fast the weights of the fixed head fall, 1 or more.
        read: Whether the embedding is read "before" the head or "after" it.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self, head: Head = "fixed", kappa: float = 1.05, read: Place = "before", **shared: Any
    ) -> None:
        super().__init__(**shared)
        for name, value, known in (("head", head, get_args(Head)), ("read", read, get_args(Place))):
            if value not in known:
                raise UserError(f"{name}: '{value}' is unknown{suggest(value, known)}")
        if not kappa >= 1:
            raise UserError(f"kappa: expected a number of 1 or more, got {kappa}")
        self.head_name, self.kappa, self.read = head, kappa, read

    def build(self, info: DataInfo) -> None:
        """Makes the encoder and its head."""
        super().build(info)
        if self.head_name == "fixed":
            self.head = nn.Sequential(FixedReweighting(self.width, self.kappa))
        elif self.head_name == "none":
            self.head = nn.Sequential()

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The embedding where it is to be read, and the last feature map."""
        found = super().encode(image)
        if self.read == "after":
            found["embedding"] = self.head(found["embedding"])
        return found


DISRUPTED: dict[str, Any] = {"least_area": 0.05, "colour": 0.0, "grey": 0.0}
"""Views that may show a twentieth of the image, in its own colours: what colour a thing has survives, its form does
not, and the form is what is asked for."""


@claim(
    text="Of what the augmentation disrupts, a linear classifier reads more before the projection head than behind it.",
    where="abstract; theorems on linear networks",
    higher_is_better=True,
)
def the_layer_below_the_head_knows_more(lab: Lab) -> Trial:
    """The same training on both sides. Views are small crops in true colours, and the class is a form."""
    return lab.duel(
        ours=lambda: ProjectionHead(head="mlp", read="before", **DISRUPTED),
        baseline=lambda: ProjectionHead(head="mlp", read="after", **DISRUPTED),
        data=CLAIM_DATA,
        metric="linear_probe",
        **SHORT_PLAN,
    )


@claim(
    text="With a head of fixed, falling weights a linear classifier reads more before it than from an encoder that "
    "learnt without a head.",
    where="abstract; experiments with fixed reweighting",
    higher_is_better=True,
)
def fixed_weights_stand_in_for_the_head(lab: Lab) -> Trial:
    """As above, with a head in which nothing is trained, and none."""
    return lab.duel(
        ours=lambda: ProjectionHead(head="fixed", **DISRUPTED),
        baseline=lambda: ProjectionHead(head="none", **DISRUPTED),
        data=CLAIM_DATA,
        metric="linear_probe",
        **SHORT_PLAN,
    )
