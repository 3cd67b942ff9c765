"""Residual networks for images of a few dozen pixels: a stem and three stages.

Registered with timm as ``pinakes_resnet8`` and so on, so that its whole interface serves them like any other backbone.
They have no trained weights. "x4" is four times as wide, as in the literature on distillation; "s2" has a stem of
stride two, for a quarter of the cost.
"""

from functools import partial
from typing import Any

from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
SHAPES: dict[str, dict[str, Any]] = {
    "resnet8": {"blocks": 1},
    "resnet20": {"blocks": 3},
    "resnet56": {"blocks": 9},
    "resnet8x4": {"blocks": 1, "widen": 4},
    "resnet32x4": {"blocks": 5, "widen": 4},
    "resnet8s2": {"blocks": 1, "stride": 2},
    "resnet20s2": {"blocks": 3, "stride": 2},
}
"""The arguments of `SmallResNet` for each network."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to the input.

    Args:
        channels: Of the input.
        width: Of the output.
        stride: Of the first convolution.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch _channels _height _width"]:
        """The block's answer."""
        activated: Tensor = self.activation(self.branch(features) + self.shortcut(features))
        return activated


class SmallResNet(nn.Module):
    """A residual network with features at strides 1, 2 and 4, times that of its stem.

    Args:
        blocks: Residual blocks in each of the three stages.
        widen: How many times 16, 32 and 64 channels the stages have; the stem has 16, or 32 where they are wider.
        stride: Of the stem.
        in_chans: Channels of the images.
        num_classes: Size of the classifier, or 0 for none.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv:1512.03385), section 4.2, with a
        projection where the shape changes. The wide ones: Tian et al., Contrastive Representation Distillation, ICLR
        2020 (arXiv:1910.10699), supplementary.
    """

    def __init__(
        self, blocks: int, widen: int = 1, stride: int = 1, in_chans: int = 3, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        channels = 16 if widen == 1 else 32
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.feature_info = []
        for stage, base in enumerate(WIDTHS):
            width = base * widen
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            inputs = [channels] + [width] * (blocks - 1)
            layers = [ResidualBlock(i, width, s) for i, s in zip(inputs, strides, strict=True)]
            self.add_module(f"stage{stage + 1}", nn.Sequential(*layers))
            self.feature_info.append(
                {"num_chs": width, "reduction": stride * 2**stage, "module": f"stage{stage + 1}"}
            )
            channels = width
        self.num_features = channels
        self.head = nn.Linear(channels, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The last feature map."""
        features: Tensor = self.stem(image)
        for stage in range(len(WIDTHS)):
            features = self.get_submodule(f"stage{stage + 1}")(features)
        return features

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """The pooled features, or the logits where there is a classifier."""
        answer: Tensor = self.head(self.forward_features(image).mean((2, 3)))
        return answer


default_cfgs = generate_default_cfgs(
    {
        f"pinakes_{name}": {
            "num_classes": 0,
            "input_size": (3, 32, 32),
            "fixed_input_size": False,
            "pool_size": None,
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.0",
            "classifier": "head",
        }
        for name in SHAPES
    }
)


def _make(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
    return build_model_with_cfg(
        SmallResNet,
        f"pinakes_{name}",
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2), "flatten_sequential": False},
        **SHAPES[name],
        **options,
    )


for _name in SHAPES:
    _function = partial(_make, _name)
    _function.__name__ = f"pinakes_{_name}"  # type: ignore[attr-defined]  # the name under which timm registers it
    _function.__module__ = __name__
    register_model(_function)
