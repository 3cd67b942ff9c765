"""Convolutional networks that compute some places of an image only, the same ones at every level.

What is sparse here is what counts, not what is computed: a dense convolution times the mask gives what a sparse one
gives, since whatever was hidden is 0 in its input.
"""

import torch
from jaxtyping import Bool, Float
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from pinakes.errors import UserError


class Sites:
    """Which places the layers of a network compute, the same for all its levels; all, unless `active` says which."""

    def __init__(self) -> None:
        self.active: Tensor | None = None

    def at(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Bool[Tensor, "batch 1 rows columns"]:
        """The places in the size of a feature map, of which the coarse ones are a whole number of places each.

        Raises:
            ValueError: If they are not.
        """
        assert self.active is not None
        rows, columns = self.active.shape[-2:]
        down, across = features.shape[-2] // rows, features.shape[-1] // columns
        if (rows * down, columns * across) != tuple(features.shape[-2:]) or not down or not across:
            raise ValueError(
                f"features: a map of {tuple(features.shape[-2:])} does not fit a mask of {(rows, columns)}"
            )
        return self.active.repeat_interleave(down, 2).repeat_interleave(across, 3)


class _OnlyActive(nn.Module):
    """Sets what a layer gives to 0 where nothing is visible."""

    sites: Sites

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = super().forward(features)
        return found if self.sites.active is None else found * self.sites.at(found)


class SparseConv2d(_OnlyActive, nn.Conv2d):
    """A convolution that is computed at visible places only."""


class SparseMaxPool2d(_OnlyActive, nn.MaxPool2d):
    """A pooling that is computed at visible places only."""


class SparseAvgPool2d(_OnlyActive, nn.AvgPool2d):
    """A pooling that is computed at visible places only."""


class SparseLayerNorm2d(_OnlyActive, LayerNorm2d):
    """A normalisation of each visible place by itself."""


class SparseBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation by the statistics of visible places."""

    sites: Sites

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Normalised features at visible places, 0 elsewhere."""
        if self.sites.active is None:
            return super().forward(features)
        if not self.training and self.track_running_stats:
            # each place by itself
            return super().forward(features) * self.sites.at(features)
        last = features.movedim(1, -1)
        seen = self.sites.at(features)[:, 0]
        normal = super().forward(last[seen][:, :, None, None])[:, :, 0, 0]
        found = torch.zeros_like(last)
        found[seen] = normal.to(found.dtype)
        return found.movedim(-1, 1)


SPARSE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: SparseConv2d,
    nn.BatchNorm2d: SparseBatchNorm2d,
    nn.MaxPool2d: SparseMaxPool2d,
    nn.AvgPool2d: SparseAvgPool2d,
    LayerNorm2d: SparseLayerNorm2d,
}
"""What takes the place of each layer."""


def sparse(network: nn.Module) -> Sites:
    """Makes the layers of a convolutional network compute visible places only, once these are set.

    The network keeps its weights and their names, and is an ordinary one as long as `Sites.active` is None.

    Args:
        network: It is changed in place.

    Returns:
        What all its layers look at.

    Raises:
        UserError: If a normalisation is none that can be computed at some places only.

    Source: Tian et al., Designing BERT for Convolutional Networks, ICLR 2023 (arXiv:2301.03580), section 3.1.
    """
    sites = Sites()
    for name, layer in network.named_modules():
        if type(layer) in SPARSE:
            layer.__class__ = SPARSE[type(layer)]
            layer.sites = sites
        elif "Norm" in type(layer).__name__:
            raise UserError(
                f"backbone: its layer {name}, a {type(layer).__name__}, cannot be computed at some places only; give a "
                "network of convolutions with batch normalisation, such as pinakes/resnet20s2 or timm/resnet18"
            )
    return sites
