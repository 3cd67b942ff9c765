r"""Gidaris et al., Unsupervised Representation Learning by Predicting Image Rotations, ICLR 2018, arXiv:1803.07728.

An image is turned by none, one, two or three quarters of a circle, and a network is to say by how many. To know it the
network must recognise what is in the picture and which way up that usually is. Its last layers come to serve this
question alone, so features are read from a layer in the middle.

What the code follows:

- Section 2.1, equations 1 and 2, `rotation_loss`: the mean over the four turns of an image of the cross-entropy of the
  true one, and of that the mean over images.
- Section 2.1, `turned`: the turns are exact, made of transposes and flips, so that they leave no traces in the pixels.
- Section 2.1 and 3.1: all four turns of an image are in one batch. A network of convolutions, the mean over its last
  map and a linear layer name the turn; features are those of an earlier stage, `level`.

The order of the turns, counter-clockwise, is that of github.com/gidariss/FeatureLearningRotNet.

Differences from the paper: a small residual network, and AdamW in place of SGD; images are moved, and not mirrored, by
default. The embedding is the mean over the chosen map, where the paper reads the whole map.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.self_supervised.base import CLAIM_PLAN, ConvolutionalLevels, SelfSupervised, no_loss
from pinakes.papers.self_supervised.views import CLAIM_DATA
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Equation 1", r"\min_\theta \frac{1}{N} \sum_{i=1}^{N} \mathrm{loss}(X_i, \theta)"),
    (
        "Equation 2",
        r"\mathrm{loss}(X_i, \theta) = -\frac{1}{K} \sum_{y=1}^{K} \log F^y(g(X_i \mid y) \mid \theta)",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

TURNS = 4


def turned(
    image: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "turns channels height width"]:
    """All images as they are, then all of them a quarter turned counter-clockwise, then by half and three quarters.

    Args:
        image: Square images.

    Raises:
        ValueError: If they are not square.

    Source: section 2.1.

    Example:
        >>> turned(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))[1, 0]
        tensor([[2., 4.],
                [1., 3.]])
    """
    height, width = image.shape[-2:]
    if height != width:
        raise ValueError(
            f"image: only square images keep their size when turned, and these are {height}x{width}"
        )
    return torch.cat([torch.rot90(image, quarters, (2, 3)) for quarters in range(TURNS)])


def rotation_loss(logits: Float[Tensor, "turns 4"]) -> Float[Tensor, ""]:
    """The cross-entropy of the true turn.

    Args:
        logits: Of the four turns, for each image of `turned`, in its order.

    Source: equations 1 and 2.

    Example:
        >>> rotation_loss(torch.zeros(8, 4)).exp()
        tensor(4.)
    """
    turn = torch.arange(TURNS, device=logits.device).repeat_interleave(len(logits) // TURNS)
    return functional.cross_entropy(logits, turn)


class RotNet(SelfSupervised):
    """A convolutional network that learns to say which way up an image is.

    Args:
        backbone: Name of the network, as `pinakes.nn.backbones` reads it, without weights unless they are named.
        level: Of the network's feature maps, the one that is the method's answer, counted from the last, -1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, backbone: str = "pinakes/resnet20s2", level: int = -2, **shared: Any) -> None:
        super().__init__(**shared)
        if level >= 0:
            raise UserError(f"level: expected a number below 0, which counts from the last map, got {level}")
        self.backbone_name, self.level = backbone, level

    def build(self, info: DataInfo) -> None:
        """Makes the network and its classifier of turns.

        Raises:
            UserError: If images are not square, or the network has no such level.
        """
        height, width = info.size
        if height != width:
            raise UserError(
                f"size: images are turned by a quarter, so they must be square, and these are {height}x{width}; give "
                f"another size, such as ?size={min(height, width)}"
            )
        levels = (self.level,) if self.level == -1 else (self.level, -1)
        self.encoder = FeatureExtractor(self.backbone_name, levels, info.channels)
        self.classifier = nn.Linear(self.encoder.widths[-1], TURNS)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the map of the chosen level, and the map."""
        maps = self.encoder(image)[0]
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The network, with the levels that timm gives it."""
        return ConvolutionalLevels(self.encoder, self.backbone_name, self.info.channels, layers)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly the network tells which way up images are, of which it is shown all four turns."""
        maps: Tensor = self.encoder(turned(image))[-1]
        return rotation_loss(self.classifier(maps.mean((2, 3))))


class _Untrained(RotNet):
    """The same network, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="A linear classifier reads more from a middle layer of a network that learnt to tell turns than from the same "
    "layer of random weights.",
    where="section 3.2, tables of linear classifiers on ImageNet features",
    higher_is_better=True,
)
def telling_turns_teaches(lab: Lab) -> Trial:
    """Handwritten digits, of which most have one way up; the same network on both sides."""
    return lab.duel(ours=RotNet, baseline=_Untrained, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)


@claim(
    text="A linear classifier reads more from a middle layer of a network that learnt to tell turns than from its last "
    "one.",
    where="section 3.1, table 1",
    higher_is_better=True,
)
def the_middle_says_more_than_the_end(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=RotNet,
        baseline=lambda: RotNet(level=-1),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )
