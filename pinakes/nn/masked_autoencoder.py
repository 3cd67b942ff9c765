"""Masked autoencoders for images: a transformer that sees a few patches, and a light decoder that paints the others.

The pieces are functions of tensors and two networks; which patches are hidden is drawn once and handed to all of them,
so that several encoders can look at the same ones:

    masking = random_masking(len(image), encoder.patches, ratio=0.75, device=image.device)
    tokens = encoder(image, masking.visible)
    loss = reconstruction_loss(decoder(tokens, masking.restore), image, masking.hidden, encoder.patch)

Source: He et al., Masked Autoencoders Are Scalable Vision Learners, CVPR 2022 (arXiv:2111.06377).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

CENTRE, SPREAD = 0.45, 0.225
"""What images in [0, 1] are shifted and scaled by: ImageNet's mean and deviation, averaged over the channels."""
HEAD_WIDTH = 32
"""Width of one attention head."""


@dataclass(frozen=True)
class Masking:
    """Which patches of each image are visible.

    Args:
        visible: Numbers of the visible patches (batch, kept), in random order.
        restore: (batch, patches): where each patch stands when the hidden ones are put behind the visible ones.
        hidden: (batch, patches): whether a patch is hidden.
    """

    visible: Tensor
    restore: Tensor
    hidden: Tensor


def masking_from(noise: Float[Tensor, "batch patches"], ratio: float) -> Masking:
    """Hides the patches with the highest noise.

    Args:
        noise: A random number for every patch.
        ratio: The share to hide, above 0 and below 1; at least one patch stays visible and one is hidden.

    Raises:
        ValueError: If the ratio is out of range or there is only one patch.

    Source: section 3, "Simple implementation".

    Example:
        >>> masking_from(torch.tensor([[0.7, 0.1, 0.9, 0.3]]), 0.5).visible
        tensor([[1, 3]])
    """
    patches = noise.shape[1]
    if not 0 < ratio < 1:
        raise ValueError(f"ratio: expected a share above 0 and below 1, got {ratio}")
    if patches < 2:
        raise ValueError(f"noise: expected at least two patches, got {patches}")
    # the small number keeps shares such as 1 - 0.9 from being rounded down by a whole patch
    kept = min(patches - 1, max(1, int(patches * (1 - ratio) + 1e-6)))
    order = noise.argsort(1)
    restore = order.argsort(1)
    return Masking(order[:, :kept], restore, restore >= kept)


def random_masking(batch: int, patches: int, ratio: float, device: torch.device | str = "cpu") -> Masking:
    """Hides a random share of the patches of each image; draws from torch's generator.

    Args:
        batch: Images.
        patches: Patches of an image.
        ratio: The share to hide, above 0 and below 1.
        device: Of the result.

    Example:
        >>> random_masking(2, 64, 0.75).visible.shape
        torch.Size([2, 16])
    """
    return masking_from(torch.rand(batch, patches, device=device), ratio)


def patchify(
    image: Float[Tensor, "batch channels height width"], patch: int
) -> Float[Tensor, "batch patches values"]:
    """Cuts images into square patches, row by row; the values of one are ordered by row, column and channel.

    Args:
        image: Images.
        patch: Side of a patch in pixels.

    Raises:
        ValueError: If the sides are no multiples of `patch`.

    Example:
        >>> patchify(torch.rand(2, 3, 32, 48), 8).shape
        torch.Size([2, 24, 192])
    """
    if image.shape[-2] % patch or image.shape[-1] % patch:
        raise ValueError(f"image: sides of {tuple(image.shape[-2:])} are no multiples of the patch, {patch}")
    return rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", p=patch, q=patch)


def unpatchify(
    patches: Float[Tensor, "batch patches values"], patch: int, size: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """Puts images together again from their patches: the inverse of `patchify`.

    Args:
        patches: Patches, row by row.
        patch: Side of a patch in pixels.
        size: Height and width of the images in pixels.
    """
    rows = size[0] // patch
    return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=patch, q=patch)


def normalised(
    image: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Images in [0, 1], shifted and scaled to what the networks see and paint."""
    return (image - CENTRE) / SPREAD


def standardised(patches: Float[Tensor, "batch patches values"]) -> Float[Tensor, "batch patches values"]:
    """Each patch brought to mean 0 and variance 1.

    Source: section 3, "Reconstruction target"; github.com/facebookresearch/mae for the small number.
    """
    spread, centre = torch.var_mean(patches, dim=2, keepdim=True)
    return (patches - centre) / (spread + 1e-6).sqrt()


def reconstruction_loss(
    predicted: Float[Tensor, "batch patches values"],
    image: Float[Tensor, "batch channels height width"],
    hidden: Bool[Tensor, "batch patches"],
    patch: int,
    norm_pix_loss: bool = False,
) -> Float[Tensor, ""]:
    """The mean squared error of the hidden patches; visible ones do not count.

    Args:
        predicted: The patches as the decoder paints them.
        image: The images in [0, 1]; the target is their `normalised` pixels.
        hidden: Whether a patch is hidden; at least one must be.
        patch: Side of a patch in pixels.
        norm_pix_loss: Whether each patch of the target is first brought to mean 0 and variance 1.

    Source: section 3, "Reconstruction target".
    """
    target = patchify(normalised(image), patch)
    if norm_pix_loss:
        target = standardised(target)
    error = (predicted - target).square().mean(2)
    return (error * hidden).sum() / hidden.sum()


def visible_only(
    tokens: Float[Tensor, "batch patches width"], visible: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch kept width"]:
    """The tokens of the visible patches."""
    return tokens.gather(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]))


def filled_in(
    tokens: Float[Tensor, "batch kept width"],
    mask_token: Float[Tensor, "1 1 width"],
    restore: Int[Tensor, "batch patches"],
) -> Float[Tensor, "batch patches width"]:
    """Visible tokens at their patches' places, and the same mask token at every other.

    Args:
        tokens: Of the visible patches, in the order of `Masking.visible`.
        mask_token: Stands for a hidden patch.
        restore: As in `Masking`.
    """
    masks = mask_token.expand(len(tokens), restore.shape[1] - tokens.shape[1], -1)
    return visible_only(torch.cat([tokens, masks], dim=1), restore)


def positions(rows: int, columns: int, width: int) -> Float[Tensor, "1 tokens width"]:
    """Sine-cosine positions of a class token, which has none, and of a grid of patches.

    Args:
        rows: Of the grid.
        columns: Of the grid.
        width: Of the tokens, a multiple of 4.
    """
    grid = build_sincos2d_pos_embed([rows, columns], width)
    return torch.cat([torch.zeros(1, width), grid])[None]


class MaskedEncoder(nn.Module):
    """A vision transformer that computes only the patches it is to see; they are joined by a class token.

    timm's VisionTransformer with fixed sine-cosine positions and without a last normalisation, which fine-tuning
    replaces: it stands at the entrance of the decoder.

    Args:
        size: Height and width of the images in pixels, multiples of `patch`.
        patch: Side of a patch in pixels.
        channels: Of the images.
        width: Of the tokens, a multiple of 32; a head of attention for each 32.
        depth: Number of blocks.

    Raises:
        ValueError: If the size is no multiple of the patch, or the width none of 32.

    Example:
        >>> encoder = MaskedEncoder((32, 32), patch=4, width=32, depth=2)
        >>> encoder(torch.rand(2, 3, 32, 32), random_masking(2, encoder.patches, 0.75).visible).shape
        torch.Size([2, 17, 32])
    """

    def __init__(
        self, size: tuple[int, int], patch: int = 4, channels: int = 3, width: int = 64, depth: int = 4
    ) -> None:
        super().__init__()
        if size[0] % patch or size[1] % patch:
            raise ValueError(f"size: {size[0]}x{size[1]} is no multiple of the patch, {patch}")
        if width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise ValueError(f"width: expected a multiple of {HEAD_WIDTH}, got {width}")
        self.size, self.patch, self.width, self.depth = size, patch, width, depth
        self.grid = size[0] // patch, size[1] // patch
        self.patches = self.grid[0] * self.grid[1]
        self.thirds = [math.ceil(depth * part / 3) for part in (1, 2, 3)]
        self.widths, self.strides = [width] * 3, [patch] * 3
        network: Any = VisionTransformer(
            img_size=size,
            patch_size=patch,
            in_chans=channels,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=depth,
            num_heads=width // HEAD_WIDTH,
            final_norm=False,
        )
        network.pos_embed = nn.Parameter(positions(*self.grid, width), requires_grad=False)
        initialise(network)
        nn.init.xavier_uniform_(network.patch_embed.proj.weight.data.view(width, -1))
        nn.init.normal_(network.cls_token, std=0.02)
        self.network: Any = network

    def after(
        self,
        image: Float[Tensor, "batch channels height width"],
        blocks: Sequence[int],
        visible: Int[Tensor, "batch kept"] | None = None,
    ) -> list[Float[Tensor, "batch tokens _width"]]:
        """The tokens after some of the blocks, the class token first; no block behind the last of these is run.

        Args:
            image: Images in [0, 1] of the encoder's size.
            blocks: After how many blocks, each from 1 to the depth.
            visible: Numbers of the patches to look at; None for all.
        """
        network = self.network
        tokens = network.patch_embed(normalised(image)) + network.pos_embed[:, 1:]
        if visible is not None:
            tokens = visible_only(tokens, visible)
        first = network.cls_token + network.pos_embed[:, :1]
        tokens = torch.cat([first.expand(len(tokens), -1, -1), tokens], dim=1)
        found = {}
        for count, block in enumerate(network.blocks[: max(blocks)], start=1):
            tokens = block(tokens)
            if count in blocks:
                found[count] = tokens
        return [found[count] for count in blocks]

    def maps(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width rows columns"]:
        """Tokens of all patches as a feature map, without the class token."""
        return rearrange(tokens[:, 1:], "b (h w) c -> b c h w", h=self.grid[0])

    def levels(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> list[Float[Tensor, "batch _width _rows _columns"]]:
        """Feature maps after each third of the blocks, of images in [0, 1] of any size, which are resized.

        Their widths and strides are `widths` and `strides`, as of any backbone.
        """
        if tuple(image.shape[-2:]) != self.size:
            image = functional.interpolate(image, self.size, mode="bilinear", antialias=True)
        return [self.maps(tokens) for tokens in self.after(image, self.thirds)]

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        visible: Int[Tensor, "batch kept"] | None = None,
    ) -> Float[Tensor, "batch tokens _width"]:
        """The tokens after the last block, the class token first."""
        return self.after(image, [self.depth], visible)[0]


class MaskedDecoder(nn.Module):
    """A light transformer that paints all patches from the tokens of the visible ones.

    Args:
        grid: Rows and columns of patches.
        patch: Side of a patch in pixels.
        channels: Of the images.
        inputs: Width of the encoder's tokens.
        width: Of its own, a multiple of 32.
        depth: Number of blocks.
    """

    places: Tensor

    def __init__(
        self,
        grid: tuple[int, int],
        patch: int,
        channels: int = 3,
        inputs: int = 64,
        width: int = 64,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs, eps=1e-6)
        self.embed = nn.Linear(inputs, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("places", positions(*grid, width))
        self.blocks = nn.Sequential(
            *(Block(width, width // HEAD_WIDTH, qkv_bias=True) for _ in range(depth)),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.paint = nn.Linear(width, patch**2 * channels)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], restore: Int[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch patches values"]:
        """The patches, from an encoder's tokens (the class token first) and `Masking.restore`."""
        embedded = self.embed(self.norm(tokens))
        everywhere = filled_in(embedded[:, 1:], self.mask_token, restore)
        painted: Tensor = self.blocks(torch.cat([embedded[:, :1], everywhere], dim=1) + self.places)
        patches: Tensor = self.paint(painted[:, 1:])
        return patches


def initialise(network: nn.Module) -> None:
    """Xavier's initialisation of all linear layers, as in the transformers of the paper."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
