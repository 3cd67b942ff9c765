r"""Tian et al., Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling, ICLR 2023,
arXiv:2301.03580.

A convolutional network cannot leave hidden patches out as a transformer can: from layer to layer, what is visible leaks
into what is hidden until nothing is masked any more. Here the network computes visible places only, at every level, as
if they were points of a sparse cloud. A light decoder gets all levels, with a learned embedding at the hidden places of
each, and paints what is hidden. The pretrained network is an ordinary one.

What the code follows, with S_i the features at level i and one mask for all levels:

- Section 3.1, `pinakes.nn.sparse_convolution`: after every convolution, normalisation and pooling only visible places
  keep a value; batch statistics are those of visible places. In plain torch sparse convolution is the dense one times
  the mask, which gives the same (github.com/keyu-tian/SparK).
- Section 3.2, `Densify`: S'_i is S_i with a mask embedding [M_i] at hidden places; a projection phi_i brings it to the
  decoder's width.
- Section 3.2, `HierarchicalDecoder`: D_i = B_i(D_{i+1}) + phi_i(S'_i), from the coarsest level to the pixels.
- Section 3.3: the mean squared error of hidden patches, each brought to mean 0 and variance 1; 60 % are hidden. A patch
  is as large as the stride of the coarsest level.

Differences from the paper: the networks have three levels and the decoder is 64 wide at the coarsest, for small images.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.masked_autoencoder import masking_from, patchify, reconstruction_loss
from pinakes.nn.painting import shown_and_painted
from pinakes.nn.sparse_convolution import Sites, SparseBatchNorm2d, sparse
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN, ConvolutionalLevels, SelfSupervised
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Section 3.2", r"S'_i = [M_i] \text{ at hidden places}, \; S_i \text{ elsewhere}"),
    ("Section 3.2", r"D_i = B_i(D_{i+1}) + \phi_i(S'_i)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LEVELS = (-3, -2, -1)


class Densify(nn.Module):
    """A level's features with an embedding where nothing is visible, in the width of the decoder.

    Args:
        width: Of the level.
        output: Of the decoder there.
        size: Side of the projection's kernel.
        sites: What is visible.

    Source: section 3.2; github.com/keyu-tian/SparK for normalisation and kernels.
    """

    def __init__(self, width: int, output: int, size: int, sites: Sites) -> None:
        super().__init__()
        self.norm = SparseBatchNorm2d(width)
        self.norm.sites = sites
        self.sites = sites
        self.embedding = nn.Parameter(torch.zeros(1, width, 1, 1))
        nn.init.trunc_normal_(self.embedding, std=0.02)
        self.project = nn.Conv2d(width, output, size, padding=size // 2)

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch outputs rows columns"]:
        """phi_i(S'_i)."""
        normal = self.norm(features)
        if self.sites.active is not None:
            normal = torch.where(self.sites.at(features), normal, self.embedding.to(normal.dtype))
        projected: Tensor = self.project(normal)
        return projected


class Upsample(nn.Sequential):
    """B_i: twice the size by a transposed convolution, then two convolutions.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.ConvTranspose2d(inputs, inputs, 4, 2, 1),
            nn.Conv2d(inputs, inputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )


class HierarchicalDecoder(nn.Module):
    """A light U-Net that paints pixels from all levels.

    Args:
        widths: Of the levels, the finest first.
        strides: Of the levels, each a power of two.
        width: Of the decoder at the coarsest level; it halves with each step.
        channels: Of the images.
        sites: What is visible.
        levels: How many levels are used, counted from the coarsest; 1 for a decoder of one scale.

    Source: section 3.2.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        width: int,
        channels: int,
        sites: Sites,
        levels: int,
    ) -> None:
        super().__init__()
        steps = int(math.log2(strides[-1]))
        own = [max(8, width // 2**step) for step in range(steps + 1)]
        self.densify = nn.ModuleDict()
        for level in list(range(len(widths)))[::-1][:levels]:
            step = steps - int(math.log2(strides[level]))
            self.densify[str(step)] = Densify(widths[level], own[step], 1 if step == 0 else 3, sites)
        self.blocks = nn.ModuleList(Upsample(*pair) for pair in pairwise(own))
        self.paint = nn.Conv2d(own[-1], channels, 1)
        self.level_of = {str(steps - int(math.log2(stride))): level for level, stride in enumerate(strides)}

    def forward(
        self, levels: Sequence[Float[Tensor, "batch _channels _rows _columns"]]
    ) -> Float[Tensor, "batch channels height width"]:
        """The images, from the features of all levels, the finest first."""
        found: Tensor | None = None
        for step, block in enumerate(self.blocks):
            if str(step) in self.densify:
                told = self.densify[str(step)](levels[self.level_of[str(step)]])
                found = told if found is None else found + told
            found = block(found)
        painted: Tensor = self.paint(found)
        return painted


class SparK(SelfSupervised):
    """A convolutional network that learns to paint what is hidden of images, of which it sees the rest alone.

    Args:
        backbone: Name of the network, as `pinakes.nn.backbones` reads it, without weights unless they are named.
        mask_ratio: Share of the patches that are hidden, above 0 and below 1.
        width: Of the decoder at the coarsest level.
        sparse_convolution: Whether only visible places are computed; otherwise hidden pixels are 0, and seen as such.
        hierarchical: Whether the decoder gets all three levels, or the coarsest alone.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    noise: Tensor

    def __init__(
        self,
        backbone: str = "pinakes/resnet20s2",
        mask_ratio: float = 0.6,
        width: int = 64,
        sparse_convolution: bool = True,
        hierarchical: bool = True,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        if width < 1:
            raise UserError(f"width: expected a whole number of 1 or more, got {width}")
        self.backbone_name, self.mask_ratio, self.width = backbone, mask_ratio, width
        self.sparse_convolution, self.hierarchical = sparse_convolution, hierarchical

    def build(self, info: DataInfo) -> None:
        """Makes encoder and decoder.

        Raises:
            UserError: If the network cannot be used, or images cannot be cut into two patches or more.
        """
        self.encoder = FeatureExtractor(self.backbone_name, LEVELS, info.channels)
        strides = self.encoder.strides
        if any(stride & (stride - 1) for stride in strides):
            raise UserError(f"backbone: its strides are {strides}, and must be powers of two")
        self.patch = strides[-1]
        height, width = info.size
        if height % self.patch or width % self.patch or height * width < 2 * self.patch**2:
            raise UserError(
                f"size: images of {height}x{width} pixels cannot be cut into patches of {self.patch}, the stride of "
                f"{self.backbone_name}; give another size or backbone"
            )
        self.grid = height // self.patch, width // self.patch
        self.sites = sparse(self.encoder.network)
        self.decoder = HierarchicalDecoder(
            self.encoder.widths, strides, self.width, info.channels, self.sites, 3 if self.hierarchical else 1
        )
        # by which patches are hidden in pictures
        noise = torch.rand(self.grid[0] * self.grid[1], generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the last feature map, and the map, of whole images."""
        maps = self.encoder(image)[-1]
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The network, with the levels that timm gives it."""
        return ConvolutionalLevels(self.encoder, self.backbone_name, self.info.channels, layers)

    def paint(
        self, image: Float[Tensor, "batch channels height width"], hidden: Bool[Tensor, "batch patches"]
    ) -> Float[Tensor, "batch patches values"]:
        """The patches as they are painted from the visible ones.

        Args:
            image: Images in [0, 1] of the method's size.
            hidden: Whether a patch is hidden.
        """
        active = ~hidden.view(len(image), 1, *self.grid)
        seen = active.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        self.sites.active = active if self.sparse_convolution else None
        try:
            levels = self.encoder.network((image - self.encoder.mean) / self.encoder.std * seen)
            painted = self.decoder(levels)
        finally:
            self.sites.active = None
        return patchify(painted, self.patch)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the painted patches are from the hidden ones."""
        noise = torch.rand(len(image), len(self.noise), device=image.device)
        hidden = masking_from(noise, self.mask_ratio).hidden
        return reconstruction_loss(self.paint(image, hidden), image, hidden, self.patch, norm_pix_loss=True)

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with these painted with their true mean and variance."""
        hidden = masking_from(self.noise.expand(len(image), -1), self.mask_ratio).hidden
        return shown_and_painted(image, self.paint(image, hidden), hidden, self.patch, norm_pix_loss=True)


@claim(
    text="Pretraining with sparse convolution makes features from which a linear classifier reads more than with dense "
    "convolution of images whose hidden pixels are zero.",
    where="section 4.4, table 6",
    higher_is_better=True,
)
def sparse_beats_zeroed_pixels(lab: Lab) -> Trial:
    """Made scenes of single objects; a residual network of 20 layers on both sides. The paper compares after
    fine-tuning."""
    return lab.duel(
        ours=SparK,
        baseline=lambda: SparK(sparse_convolution=False),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )


@claim(
    text="A decoder that gets all levels makes features from which a linear classifier reads more than one that gets "
    "the coarsest alone.",
    where="section 4.4, table 6",
    higher_is_better=True,
)
def all_levels_beat_the_coarsest(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=SparK,
        baseline=lambda: SparK(hierarchical=False),
        data=CLAIM_DATA,
        metric="linear_probe",
        **CLAIM_PLAN,
    )
