"""Backbones by name: `timm/NAME`, or one of the two embedded ones that work offline.

A name may say where its weights come from, after an "@":

- `timm/resnet18`: timm's pretrained weights, from the local cache or downloaded;
- `timm/resnet18@random`: none;
- `timm/resnet18@weights/resnet18.safetensors`: a file of yours;
- `pinakes/tiny_conv`, `pinakes/tiny_vit`: the embedded ones, about a million parameters each;
- `pinakes/resnet8`, `resnet20`, `resnet8x4`, `resnet8s2` and others: residual networks for small images, without
  weights (`pinakes.nn.small_resnet`);
- `runs/mine`: the encoder of a fitted method, from its run folder, which must stay where it is.
"""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pinakes.engine.runs import DESCRIPTION
from pinakes.errors import UserError, suggest
from pinakes.nn import small_resnet, tiny

EMBEDDED = {"pinakes/tiny_conv": "pinakes_tiny_conv", "pinakes/tiny_vit": "pinakes_tiny_vit"}
UNTRAINED = {f"pinakes/{name}": f"pinakes_{name}" for name in small_resnet.SHAPES}
assert tiny.WEIGHTS  # importing the modules registers their networks with timm

_skip_weights: ContextVar[bool] = ContextVar("skip_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Backbones made inside the block get no pretrained weights, because saved ones are about to be loaded."""
    token = _skip_weights.set(True)
    try:
        yield
    finally:
        _skip_weights.reset(token)


class FeatureExtractor(nn.Module):
    """The feature maps of a backbone at some of its layers, for images in [0, 1].

    Args:
        name: The backbone, as above.
        layers: Which of the backbone's feature levels, in timm's `out_indices`: for a ResNet 0 is the stem and
            2, 3 are layer2 and layer3; for a vision transformer, blocks.
        channels: Channels of the images; backbones trained on colour adapt their first convolution.

    Raises:
        UserError: If the name is unknown, a layer does not exist, or the weights cannot be had.

    Example:
        >>> extract = FeatureExtractor("timm/resnet18@random", layers=(2, 3))
        >>> [tuple(level.shape) for level in extract(torch.rand(1, 3, 64, 64))]
        [(1, 128, 8, 8), (1, 256, 4, 4)]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, layers: Sequence[int] = (2, 3), channels: int = 3) -> None:
        super().__init__()
        self.widths: list[int]
        self.strides: list[int]
        if (Path(name) / DESCRIPTION).is_file():
            encoder = _encoder_of(Path(name), tuple(layers), channels)
            self.network: nn.Module = encoder
            self.widths, self.strides = encoder.widths, encoder.strides
            mean, std = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        else:
            self.network = _create(name, features_only=True, out_indices=tuple(layers), in_chans=channels)
            levels: Any = self.network.feature_info
            self.widths, self.strides = levels.channels(), levels.reduction()
            mean, std = _normalisation(self.network, channels)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.is_frozen = False

    def freeze(self) -> "FeatureExtractor":
        """Switches to evaluation for good: no gradients, and batch statistics stay as they are."""
        self.is_frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Sets training or evaluation mode; a frozen extractor stays in evaluation mode."""
        return super().train(mode and not self.is_frozen)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _h _w"]]:
        """The feature maps (batch, width, height / stride, width / stride), one for each layer."""
        levels: list[Tensor] = self.network((image - self.mean) / self.std)
        return levels


def _encoder_of(run: Path, layers: tuple[int, ...], channels: int) -> Any:
    """The encoder of a fitted method; takes images as they are."""
    # imported by name: which methods there are is not code that results with other backbones depend on
    method = importlib.import_module("pinakes").load(run)
    if not hasattr(method, "as_backbone"):
        raise UserError(
            f"backbone: {run} holds a run of {type(method).__name__}, which is no encoder; give one of the task "
            "representation"
        )
    if method.info.channels != channels:
        raise UserError(
            f"backbone: {run} was fitted on images of {method.info.channels} channels, and these have {channels}; "
            f"add ?channels={method.info.channels} to the spec"
        )
    return method.as_backbone(layers)


def _normalisation(network: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    config: dict[str, Any] = (
        getattr(network, "pretrained_cfg", None) or getattr(network, "default_cfg", None) or {}
    )
    mean = torch.tensor(config.get("mean", timm.data.IMAGENET_DEFAULT_MEAN))
    std = torch.tensor(config.get("std", timm.data.IMAGENET_DEFAULT_STD))
    if channels != len(mean):
        mean, std = mean.mean().expand(channels), std.mean().expand(channels)
    return mean.view(-1, 1, 1).clone(), std.view(-1, 1, 1).clone()


def _create(name: str, **settings: Any) -> nn.Module:
    base, _, weights = name.partition("@")
    ours = EMBEDDED | UNTRAINED
    if base in ours:
        model_name = ours[base]
    elif base.startswith("timm/"):
        model_name = base.removeprefix("timm/")
    else:
        raise UserError(f"backbone: '{base}' is unknown{suggest(base, [*ours, 'timm/NAME', 'RUN'])}")
    if not timm.is_model(model_name):
        near = suggest(model_name, timm.list_models())[:200]
        raise UserError(f"backbone: timm has no network '{model_name}'{near}")
    file = Path(weights) if weights and weights != "random" else None
    if file is not None and (not file.is_file() or file.suffix != ".safetensors"):
        raise UserError(f"backbone: {file}: is no safetensors file; give one, or @random")
    has_weights = file is not None or (weights != "random" and base not in UNTRAINED)
    pretrained = has_weights and not _skip_weights.get()
    source: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
    try:
        network: nn.Module = timm.create_model(model_name, pretrained=pretrained, **source, **settings)
    except (IndexError, AssertionError, ValueError) as error:
        raise UserError(f"backbone: {base} cannot be made with {settings} ({error})") from error
    except Exception as error:
        if not pretrained:
            raise
        if file is not None:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"backbone: {file}: does not hold weights of {base} ({reason})") from error
        raise UserError(
            f"backbone: the pretrained weights of {base} cannot be had ({type(error).__name__}). Where there is a "
            f"network, run once to cache them in {_hub_cache()}; or give a file, {base}@FILE.safetensors; without "
            f"weights, pinakes/tiny_conv and {base}@random work"
        ) from error
    return network


def _hub_cache() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return HF_HUB_CACHE
