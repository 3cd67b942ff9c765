"""How near an image is to what it should be: a distance of features, and signal to noise in a part of it."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.nn.backbones import FeatureExtractor

SIDE = 32
"""The smaller side of an image in pixels, at least, when a network looks at it."""
BEST = 100.0
"""Decibels beyond which nothing is told apart."""


def perceptual_distance(
    levels: Sequence[Float[Tensor, "batch _width _rows _columns"]],
    others: Sequence[Float[Tensor, "batch _width _rows _columns"]],
) -> Float[Tensor, " batch"]:
    """How far feature maps lie apart: at each place the squared distance of vectors of length 1, averaged over places
    and summed over levels; 0 to 4 for each level, low is near.

    Args:
        levels: Feature maps of images at several levels of a network.
        others: Those of others.

    Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018
        (arXiv:1801.03924), equation 1 with all weights 1.

    Example:
        >>> one, other = torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[3.0]]]])
        >>> perceptual_distance([one, one], [one, other])
        tensor([2.])
    """
    apart = [
        (functional.normalize(one, dim=1) - functional.normalize(other, dim=1)).square().sum(1).mean((1, 2))
        for one, other in zip(levels, others, strict=True)
    ]
    return torch.stack(apart).sum(0)


class PerceptualFeatures(nn.Module):
    """The feature maps of a frozen backbone, from fine to coarse, of images in [0, 1].

    One channel is repeated, and of more than three the first three count. Images below 32 pixels are enlarged.

    Args:
        name: The backbone.
        layers: Which of its levels.

    Example:
        >>> network = PerceptualFeatures()
        >>> image = torch.rand(2, 1, 16, 16)
        >>> perceptual_distance(network(image), network(image))
        tensor([0., 0.])
    """

    def __init__(self, name: str = "pinakes/tiny_conv", layers: Sequence[int] = (0, 1, 2, 3)) -> None:
        super().__init__()
        self.network = FeatureExtractor(name, layers, 3).freeze()

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """The maps; gradients reach the images."""
        image = image[:, :3] if image.shape[1] >= 3 else image[:, :1].expand(-1, 3, -1, -1)
        height, width = image.shape[-2:]
        if min(height, width) < SIDE:
            larger = [round(side * SIDE / min(height, width)) for side in (height, width)]
            image = functional.interpolate(image, larger, mode="bicubic").clamp(0, 1)
        levels: list[Tensor] = self.network(image)
        return levels


def region_psnr(
    image: Float[Tensor, "batch channels height width"],
    clean: Float[Tensor, "batch channels height width"],
    region: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """The peak signal-to-noise ratio of a part of images in [0, 1], in decibels, 100 at most; NaN where the part is
    empty.

    Args:
        image: To judge.
        clean: As it should be.
        region: The part, True where pixels count.

    Example:
        >>> clean, region = torch.zeros(1, 1, 2, 2), torch.tensor([[[True, False], [False, False]]])
        >>> region_psnr(clean + 0.1, clean, region)
        tensor([20.])
    """
    error = ((image - clean).square() * region[:, None]).sum((1, 2, 3))
    mean = error / (region.sum((1, 2)) * image.shape[1])
    return (-10 * mean.log10()).clamp(max=BEST)
