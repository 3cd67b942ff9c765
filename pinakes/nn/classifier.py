"""An image classifier on any backbone."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from pinakes.nn.backbones import FeatureExtractor


class ImageClassifier(nn.Module):
    """A backbone, the mean over its last feature map, and a linear layer.

    Args:
        backbone: Name of the backbone, as `pinakes.nn.backbones` reads it.
        classes: Number of classes.
        channels: Channels of the images.
        layers: The backbone's feature levels that `levels` gives, as `FeatureExtractor` takes them; the last one is
            what the classes are read from.

    Example:
        >>> import torch
        >>> classifier = ImageClassifier("pinakes/tiny_conv", classes=5)
        >>> classifier(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(self, backbone: str, classes: int, channels: int = 3, layers: Sequence[int] = (-1,)) -> None:
        super().__init__()
        self.backbone = FeatureExtractor(backbone, layers, channels)
        self.head = nn.Linear(self.backbone.widths[-1], classes)

    def levels(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _features _rows _columns"]]:
        """The feature maps of images in [0, 1], one for each layer."""
        return self.backbone(image)

    def read(self, last: Float[Tensor, "batch features rows columns"]) -> Float[Tensor, "batch classes"]:
        """The logits of a last feature map."""
        logits: Tensor = self.head(last.mean((2, 3)))
        return logits

    def maps(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The last feature map of images in [0, 1]."""
        return self.backbone(image)[-1]

    def features(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        """The mean over the last feature map of images in [0, 1]."""
        return self.maps(image).mean((2, 3))

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        """The logits of images in [0, 1]."""
        return self.read(self.maps(image))
