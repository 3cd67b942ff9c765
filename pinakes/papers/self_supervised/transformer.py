"""What the methods of this shelf share that train a vision transformer on some of an image's patches."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.nn.masked_autoencoder import HEAD_WIDTH, MaskedEncoder, Masking, masking_from
from pinakes.papers.self_supervised.base import SelfSupervised
from pinakes.tasks.base import Prediction


class PatchTransformer(SelfSupervised):
    """A vision transformer that can leave patches out.

    A subclass gives `loss`, makes further modules in `build`, and says with `normal` how tokens are normalised behind
    the last block.

    Args:
        mask_ratio: Share of the patches that are hidden, above 0 and below 1.
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the encoder, a multiple of 32.
        depth: Blocks of the encoder.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    noise: Tensor

    def __init__(
        self,
        mask_ratio: float = 0.75,
        patch: int = 4,
        embed_dim: int = 96,
        depth: int = 6,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        check_width("embed_dim", embed_dim)
        check_counts(patch=patch, depth=depth)
        self.mask_ratio, self.patch, self.embed_dim, self.depth = mask_ratio, patch, embed_dim, depth

    def build(self, info: DataInfo) -> None:
        """Makes the encoder.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        height, width = info.size
        if height % self.patch or width % self.patch or height * width < 2 * self.patch**2:
            raise UserError(
                f"patch: images of {height}x{width} pixels cannot be cut into patches of {self.patch}; give another "
                "patch or size"
            )
        self.encoder = MaskedEncoder((height, width), self.patch, info.channels, self.embed_dim, self.depth)
        # by which patches are hidden in pictures
        noise = torch.rand(self.encoder.patches, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)

    def normal(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens, normalised as they are behind the last block; by default as they are."""
        return tokens

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the patches, and the patches, of whole images."""
        tokens = self.normal(self.encoder(image))[:, 1:]
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=self.encoder.grid[0])
        return {"embedding": tokens.mean(1), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The encoder, with a level behind each of its blocks; negative numbers count from the last.

        Raises:
            UserError: If there is no such block.
        """
        return TransformerLevels(self.encoder, layers)

    def same_masking(self, images: int) -> Masking:
        """The masking of pictures, the same for all images and every time."""
        return masking_from(self.noise.expand(images, -1), self.mask_ratio)


class TransformerLevels(nn.Module):
    """Feature maps behind some blocks of a transformer, of images of any size, which are brought to its own.

    Args:
        encoder: The transformer.
        layers: Numbers of blocks, from 0; negative numbers count from the last.

    Raises:
        UserError: If there is no such block.
    """

    def __init__(self, encoder: MaskedEncoder, layers: Sequence[int]) -> None:
        super().__init__()
        for layer in layers:
            if not -encoder.depth <= layer < encoder.depth:
                raise UserError(
                    f"layers: the encoder has {encoder.depth} blocks, from 0, and none is {layer}"
                )
        self.encoder = encoder
        self.blocks = [layer % encoder.depth + 1 for layer in layers]
        self.widths, self.strides = [encoder.width] * len(layers), [encoder.patch] * len(layers)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """The feature maps, one for each block."""
        if tuple(image.shape[-2:]) != self.encoder.size:
            image = functional.interpolate(image, self.encoder.size, mode="bilinear", antialias=True)
        return [self.encoder.maps(tokens) for tokens in self.encoder.after(image, self.blocks)]


def hidden_patches(masking: Masking) -> Int[Tensor, "batch hidden"]:
    """Numbers of the hidden patches."""
    # what stands behind the visible ones when patches are put in the order of their noise
    return masking.restore.argsort(1)[:, masking.visible.shape[1] :]


def check_width(name: str, width: int) -> None:
    """Makes sure that a width can be divided among heads of attention.

    Raises:
        UserError: If it cannot; names the option.
    """
    if width < HEAD_WIDTH or width % HEAD_WIDTH:
        raise UserError(f"{name}: expected a multiple of {HEAD_WIDTH}, got {width}")


def check_counts(**counts: int) -> None:
    """Makes sure that numbers of something are 1 or more.

    Raises:
        UserError: If one is not; names the option.
    """
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}: expected a whole number of 1 or more, got {value}")
