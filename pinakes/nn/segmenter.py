"""A network that names the class of every pixel, on any backbone."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.nn.backbones import FeatureExtractor


class ImageSegmenter(nn.Module):
    """A backbone, a light decoder that brings its feature levels together, and a linear layer at every pixel.

    Each level passes a 1x1 convolution, is upsampled to the finest one, and all are summed; a 3x3 convolution makes
    the embedding of every pixel of that level, from which the classes are read.

    Args:
        backbone: Name of the backbone, as `pinakes.nn.backbones` reads it.
        classes: Number of classes.
        channels: Channels of the images.
        layers: The backbone's feature levels that are used, as `FeatureExtractor` takes them.
        width: Channels of the embedding; by default those of the finest level.

    Source: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017 (arXiv:1612.03144), and Kirillov et
        al., Panoptic Feature Pyramid Networks, CVPR 2019 (arXiv:1901.02446), of which this is the smallest form.

    Example:
        >>> import torch
        >>> segmenter = ImageSegmenter("pinakes/tiny_conv", classes=5)
        >>> segmenter(torch.rand(2, 3, 32, 32)).shape, segmenter.embed(torch.rand(2, 3, 32, 32)).shape
        (torch.Size([2, 5, 32, 32]), torch.Size([2, 64, 8, 8]))
    """

    def __init__(
        self,
        backbone: str,
        classes: int,
        channels: int = 3,
        layers: Sequence[int] = (-3, -2, -1),
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = FeatureExtractor(backbone, layers, channels)
        finest = min(range(len(layers)), key=lambda level: self.backbone.strides[level])
        self.width = width = width or self.backbone.widths[finest]
        self.laterals = nn.ModuleList(
            nn.Conv2d(level, width, 1, bias=False) for level in self.backbone.widths
        )
        self.mix = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Conv2d(width, classes, 1)

    def embed(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _features _rows _columns"]:
        """The embedding of every pixel of the finest level, for images in [0, 1]."""
        levels = [lateral(level) for lateral, level in zip(self.laterals, self.backbone(image), strict=True)]
        size = max(level.shape[-2:] for level in levels)
        embedding: Tensor = self.mix(sum(resized(level, size) for level in levels))
        return embedding

    def read(
        self, embedding: Float[Tensor, "batch features rows columns"], size: Sequence[int]
    ) -> Float[Tensor, "batch classes _height _width"]:
        """The logits of every pixel of an image.

        Args:
            embedding: What `embed` gave for it.
            size: Its height and width.
        """
        return resized(self.head(embedding), size)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes height width"]:
        """The logits of every pixel of images in [0, 1]."""
        return self.read(self.embed(image), image.shape[-2:])


def resized(
    maps: Float[Tensor, "batch channels rows columns"], size: Sequence[int]
) -> Float[Tensor, "batch channels _height _width"]:
    """Maps of another size, bilinearly; those that have it are returned as they are.

    Args:
        maps: Of any size.
        size: Height and width.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
