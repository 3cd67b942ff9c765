r"""Saxe et al., On Random Weights and Unsupervised Feature Learning, ICML 2011,
https://icml.cc/2011/papers/551_icmlpaper.pdf.

A network that has learnt nothing is no blank sheet: convolution and pooling alone make its features selective and
stable, so that a classifier reads more from them than from the pixels. What learning adds must be held against this.

What the code follows: the features of a network as it is initialised; training changes nothing.

Differences from the paper: a network of today in place of one layer of square pooling.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.method import Method
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.self_supervised.base import CLAIM_DATA, ConvolutionalLevels, SelfSupervised
from pinakes.tasks.base import Prediction


class RandomWeights(SelfSupervised):
    """A network with the weights that it was initialised with.

    Args:
        backbone: Its name, as `pinakes.nn.backbones` reads it; whatever weights there are, random ones are taken.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    training_step = Method.training_step  # type: ignore[assignment]  # none: nobody is to ask for a loss

    def __init__(self, backbone: str = "pinakes/tiny_conv") -> None:
        super().__init__()
        self.backbone_name = backbone

    def build(self, info: DataInfo) -> None:
        """Makes the network."""
        name = self.backbone_name.partition("@")[0]
        self.encoder = FeatureExtractor(f"{name}@random", (-1,), info.channels)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The last feature map and the mean over it."""
        (maps,) = self.encoder(image)
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The network, with the levels that timm gives it."""
        return ConvolutionalLevels(self.encoder, self.backbone_name, self.info.channels, layers)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Nothing is learnt."""


class Pixels(RandomWeights):
    """The pixels themselves, as the embedding."""

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """All pixels of the image."""
        return {"embedding": image.flatten(1)}


@claim(
    text="A linear classifier reads more from the features of random weights than from the pixels.",
    where="section 5, table 1",
    higher_is_better=True,
)
def random_features_beat_pixels(lab: Lab) -> Trial:
    """Made scenes of single objects."""
    return lab.duel(ours=RandomWeights, baseline=Pixels, data=CLAIM_DATA, metric="linear_probe")
