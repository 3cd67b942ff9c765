"""An image classifier on any backbone."""

from jaxtyping import Float
from torch import Tensor, nn

from pinakes.nn.backbones import FeatureExtractor


class ImageClassifier(nn.Module):
    """A backbone, the mean over its last feature map, and a linear layer.

    Args:
        backbone: Name of the backbone, as `pinakes.nn.backbones` reads it.
        classes: Number of classes.
        channels: Channels of the images.

    Example:
        >>> import torch
        >>> classifier = ImageClassifier("pinakes/tiny_conv", classes=5)
        >>> classifier(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(self, backbone: str, classes: int, channels: int = 3) -> None:
        super().__init__()
        self.backbone = FeatureExtractor(backbone, (-1,), channels)
        self.head = nn.Linear(self.backbone.widths[-1], classes)

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
        logits: Tensor = self.head(self.features(image))
        return logits
