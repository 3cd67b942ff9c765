"""The two embedded backbones: a residual network and a vision transformer of about a million parameters each.

Both are timm's own classes in a small configuration, registered with timm as ``pinakes_tiny_conv`` and
``pinakes_tiny_vit``, so that ``timm.create_model`` and its whole interface (``num_classes``, ``in_chans``,
``features_only``, ``forward_features``, ``feature_info``) serve them like any other backbone. Their weights
lie beside this file as safetensors, were trained without labels by ``scripts/train_embedded.py``, and are
loaded strictly: a missing, superfluous or misshapen tensor is an error. Matrices and kernels are stored in half
precision.

Images are float in [0, 1]; the caller normalises them with the ImageNet mean and standard deviation, which
the configuration of each network states as ``mean`` and ``std``. Any height and width of 32 pixels or more
will do.
"""

from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.patch_embed import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"
TINY_CONV_WEIGHTS = WEIGHTS / "tiny_conv.safetensors"
TINY_VIT_WEIGHTS = WEIGHTS / "tiny_vit.safetensors"

_TINY_CONV = ByoModelCfg(
    blocks=(
        ByoBlockCfg(type="basic", d=1, c=32, s=1),
        ByoBlockCfg(type="basic", d=2, c=64, s=2),
        ByoBlockCfg(type="basic", d=2, c=112, s=2),
        ByoBlockCfg(type="basic", d=1, c=144, s=2),
    ),
    downsample="avg",
    stem_type="3x3",
    stem_pool="",
    stem_chs=32,
    num_features=384,
)


class ConvolutionalPatchEmbed(PatchEmbed):
    """Patch embedding by a stack of 3x3 convolutions of stride two, in place of one large convolution.

    A small transformer trains faster and more steadily behind such a stem.

    Source: Xiao et al., Early Convolutions Help Transformers See Better, NeurIPS 2021 (arXiv:2106.14881),
        section 4.
    """

    def __init__(self, in_chans: int = 3, embed_dim: int = 128, patch_size: int = 8, **options: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, patch_size=patch_size, **options)
        halvings = self.patch_size[0].bit_length() - 1
        layers: list[nn.Module] = []
        channels = in_chans
        for halving in range(halvings):
            width = embed_dim >> (halvings - halving)
            convolution = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.register_module("proj", nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, 1)))


def _identity(width: int) -> nn.Linear:
    """A linear layer that does nothing until weights are loaded."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class TinyConv(ByobNet):
    """timm's ByobNet whose pooled features are whitened: uncorrelated, and of like variance.

    Cosine and Euclidean distances between whitened features weigh every direction alike, which nearest
    neighbours profit from. The feature maps are not whitened.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.whitening = _identity(self.num_features)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps [batch, channels, height, width] to whitened features, or to logits where there is a classifier.

        With timm's ``global_pool=""`` there is no pooled feature, and hence nothing to whiten.
        """
        if self.head.global_pool.is_identity():
            return self.head(x, pre_logits=pre_logits)
        features = self.whitening(self.head(x, pre_logits=True))
        return features if pre_logits else self.head.fc(features)


class TinyViT(VisionTransformer):
    """timm's VisionTransformer whose pooled features are whitened, like those of `TinyConv`."""

    whitening: nn.Module

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.whitening = _identity(self.num_features)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens [batch, tokens, width] to whitened features, or to logits where there is a classifier."""
        features = self.whitening(super().forward_head(x, pre_logits=True))
        return features if pre_logits else self.head(features)

    def prune_intermediate_layers(
        self, indices: Any = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> Any:
        """As timm's; what stands behind the last block in use is left out, the whitening with the head."""
        if prune_head:
            self.whitening = nn.Identity()
        return super().prune_intermediate_layers(indices, prune_norm, prune_head)


def _configuration(weights: Path, first_convolution: str) -> dict[str, Any]:
    return {
        "file": str(weights),
        "num_classes": 0,
        "input_size": (3, 64, 64),
        "fixed_input_size": False,
        "min_input_size": (3, 32, 32),
        "pool_size": None,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": first_convolution,
        "classifier": None,
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs(
    {
        "pinakes_tiny_conv": _configuration(TINY_CONV_WEIGHTS, "stem.conv"),
        "pinakes_tiny_vit": _configuration(TINY_VIT_WEIGHTS, "patch_embed.proj.0"),
    }
)


def _completed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The stored weights in full precision, with the model's own fresh classifier, so that loading is strict."""
    full = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    return full | {name: value for name, value in model.state_dict().items() if name.startswith("head.")}


def _completed_vit(state: dict[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    return checkpoint_filter_fn(_completed(state, model), model)


@register_model
def pinakes_tiny_conv(pretrained: bool = False, **options: Any) -> nn.Module:
    """A residual network with features at strides 2, 4, 8 and 16 (32, 64, 112 and 384 channels).

    Args:
        pretrained: Load the embedded weights.
        **options: timm's own, such as ``num_classes``, ``in_chans``, ``features_only``, ``out_indices``.

    Returns:
        The network: images [batch, channels, height, width] to pooled features [batch, 384], or to logits
        when ``num_classes`` is given.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv:1512.03385).

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 32, 48)
        >>> pinakes_tiny_conv().eval()(images).shape
        torch.Size([2, 384])
    """
    return build_model_with_cfg(
        TinyConv,
        "pinakes_tiny_conv",
        pretrained,
        model_cfg=_TINY_CONV,
        pretrained_filter_fn=_completed,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        **options,
    )


@register_model
def pinakes_tiny_vit(pretrained: bool = False, **options: Any) -> nn.Module:
    """A vision transformer: patches of 8 pixels, five blocks of width 128, features at stride 8.

    Images whose sides are no multiple of 8 are padded at the right and bottom with the mean colour. There is
    no class token: the pooled feature is the mean over the patches.

    Args:
        pretrained: Load the embedded weights.
        **options: timm's own, such as ``num_classes``, ``in_chans``, ``features_only``, ``out_indices``.

    Returns:
        The network: images [batch, channels, height, width] to pooled features [batch, 128], or to logits
        when ``num_classes`` is given.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021 (arXiv:2010.11929).

    Example:
        >>> import torch
        >>> images = torch.rand(2, 3, 32, 48)
        >>> pinakes_tiny_vit().eval()(images).shape
        torch.Size([2, 128])
    """
    settings: dict[str, Any] = {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 128,
        "depth": 5,
        "num_heads": 4,
        "mlp_ratio": 3.5,
        "class_token": False,
        "global_pool": "avg",
        "dynamic_img_size": True,
        "dynamic_img_pad": True,
        "embed_layer": ConvolutionalPatchEmbed,
    }
    return build_model_with_cfg(
        TinyViT,
        "pinakes_tiny_vit",
        pretrained,
        pretrained_filter_fn=_completed_vit,
        feature_cfg={"out_indices": (0, 2, 4), "feature_cls": "getter"},
        **{**settings, **options},
    )
