r"""Trinh et al., Selfie: Self-supervised Pretraining for Image Embedding, arXiv 2019, arXiv:1906.02940.

Some patches of an image are taken out. From the others, and the place of one that is missing, a network must choose it
among all that were taken out of the same image. Nothing is painted, so no pixel must be right: to choose well it is
enough to know what belongs there. The first stages of a residual network look at each patch by itself. Once they have
learnt they are put back below the last stage, and the whole network is fine-tuned with a few labels.

What the code follows, with h_i what the patch network says of patch i:

- Section on pretraining, `Selfie.patch_vectors`: the first stages of the network and the mean over their map give one
  vector for each patch, whether it is shown or to be chosen.
- Section on attention pooling, `PatchQueries`: a learnt vector u_0 goes through transformer layers together with the
  h_i of the visible patches, and comes out as u. The query for a place is v = u + its embedding, which is the sum of
  one for its row and one for its column. Layers are as in BERT: attention and two linear layers with GELU, each behind
  a dropout added to its input, and normalised.
- Section on pretraining, `patch_selection_loss`: the softmax over v . h_i of the missing patches, and the cross-entropy
  of the true one.
- Section on fine-tuning, `Selfie.encode`: the whole network looks at the whole image; its last stage is fresh.

That a quarter of the patches is taken out, and that visible ones are not told their places, is as in two public
implementations (github.com/wuhoward/SELFIE, github.com/VITA-Group/Adv-SS-Pretraining).

Differences from the paper: a residual network of three stages, of which two learn; patches and layers are small, and
rows and columns have their own embeddings in small images too. AdamW in place of SGD.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from timm.models import FeatureListNet
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.masked_autoencoder import Masking, masking_from, normalised, patchify, random_masking
from pinakes.nn.painting import shown_and_painted
from pinakes.papers.self_supervised.base import (
    CLAIM_DATA,
    CLAIM_PLAN,
    ConvolutionalLevels,
    SelfSupervised,
    no_loss,
)
from pinakes.papers.self_supervised.transformer import check_counts, hidden_patches
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Attention pooling", r"u, h'_1, \dots, h'_n = \mathrm{TransformerLayers}(u_0, h_1, \dots, h_n)"),
    ("Attention pooling", r"v_m = u + e^{row}_m + e^{column}_m"),
    (
        "`patch_selection_loss`",
        r"L = -\sum_{m \in M} \log \frac{\exp(v_m \cdot h_m)}{\sum_{k \in M} \exp(v_m \cdot h_k)}",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

FINE_TUNING_DATA = CLAIM_DATA + "&finetune=10"


def patch_selection_loss(
    query: Float[Tensor, "batch missing dim"], patches: Float[Tensor, "batch missing dim"]
) -> Float[Tensor, ""]:
    """The cross-entropy of choosing the right patch for each place among all that are missing in the same image.

    Args:
        query: v of each missing place.
        patches: h of the patch that belongs there, in the same order.

    Example:
        >>> patch_selection_loss(torch.zeros(2, 4, 8), torch.rand(2, 4, 8)).exp()
        tensor(4.)
    """
    scores = query @ patches.mT
    right = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
    return functional.cross_entropy(scores.flatten(0, 1), right.flatten())


class PatchQueries(nn.Module):
    """Attention pooling of the visible patches, and what is asked for each missing place.

    Args:
        grid: Rows and columns of patches.
        width: Of the patches' vectors.
        heads: Of the attention; they divide `width`.
        depth: Transformer layers.
        dropout: Share of the values that are left out of each layer's two parts while it learns.

    Source: section on attention pooling.
    """

    def __init__(
        self, grid: tuple[int, int], width: int, heads: int = 4, depth: int = 3, dropout: float = 0.1
    ) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=False
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.rows, self.columns = (nn.Parameter(torch.zeros(count, width)) for count in grid)
        for embedding in (self.start, self.rows, self.columns):
            nn.init.trunc_normal_(embedding, std=0.02)

    def pooled(self, visible: Float[Tensor, "batch visible dim"]) -> Float[Tensor, "batch dim"]:
        """u, of the vectors of visible patches in any order."""
        layered: Tensor = self.layers(torch.cat([self.start.expand(len(visible), -1, -1), visible], dim=1))
        return layered[:, 0]

    def forward(
        self, patches: Float[Tensor, "batch patches dim"], masking: Masking
    ) -> Float[Tensor, "batch missing dim"]:
        """v of each hidden patch, in the order of `hidden_patches`; the hidden ones are not looked at."""
        places = hidden_patches(masking)
        where = (self.rows[:, None] + self.columns).flatten(0, 1)[places]
        return self.pooled(chosen(patches, masking.visible))[:, None] + where


def chosen(patches: Float[Tensor, "batch patches dim"], places: Tensor) -> Float[Tensor, "batch some dim"]:
    """Some patches of each image.

    Args:
        patches: All of them.
        places: Numbers of those that are wanted (batch, some).
    """
    return patches.gather(1, places[:, :, None].expand(-1, -1, patches.shape[2]))


class Selfie(SelfSupervised):
    """A convolutional network whose first stages learn to tell which patch of an image belongs where.

    Args:
        backbone: Name of the network, as `pinakes.nn.backbones` reads it, without weights unless they are named; all
            of it but its last stage learns.
        mask_ratio: Share of the patches that are taken out, above 0 and below 1; two at least.
        patch: Side of a patch in pixels.
        depth: Layers of attention pooling.
        heads: Of the attention; they divide the width of the patches' vectors.
        dropout: Share of the values that attention pooling leaves out while it learns, 0 or more and below 1.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    noise: Tensor

    def __init__(
        self,
        backbone: str = "pinakes/resnet20s2",
        mask_ratio: float = 0.25,
        patch: int = 8,
        depth: int = 3,
        heads: int = 4,
        dropout: float = 0.1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: expected a share of 0 or more and below 1, got {dropout}")
        check_counts(patch=patch, depth=depth, heads=heads)
        self.backbone_name, self.mask_ratio, self.patch = backbone, mask_ratio, patch
        self.depth, self.heads, self.dropout = depth, heads, dropout

    def build(self, info: DataInfo) -> None:
        """Makes the network, of which the last stage does not learn, and attention pooling.

        Raises:
            UserError: If the network cannot be used, or images cannot be cut so that two patches can be missing.
        """
        self.encoder = FeatureExtractor(self.backbone_name, (-2, -1), info.channels)
        if not isinstance(self.encoder.network, FeatureListNet):
            raise UserError(
                f"backbone: {self.backbone_name} is no chain of stages; take a convolutional network"
            )
        self.encoder.requires_grad_(False)
        self.patch_network.requires_grad_(True)
        width = self.encoder.widths[0]
        if width % self.heads:
            raise UserError(f"heads: {self.heads} do not divide the width of the patches' vectors, {width}")
        height, across = info.size
        if height % self.patch or across % self.patch:
            raise UserError(
                f"patch: images of {height}x{across} pixels cannot be cut into patches of {self.patch}; give another "
                "patch or size"
            )
        grid = height // self.patch, across // self.patch
        # by which patches are missing in pictures
        noise = torch.rand(grid[0] * grid[1], generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise, persistent=False)
        if len(noise) < 2 or masking_from(noise[None], self.mask_ratio).hidden.sum() < 2:
            raise UserError(
                f"mask_ratio: of {len(noise)} patches {self.mask_ratio} is fewer than two, so there is no choice; give "
                "a larger share or smaller patches"
            )
        self.queries = PatchQueries(grid, width, self.heads, self.depth, self.dropout)

    @property
    def patch_network(self) -> nn.Sequential:
        """The network without its last stage."""
        network: Any = self.encoder.network
        names = list(network)
        return nn.Sequential(
            *(network[name] for name in names[: 1 + names.index(next(iter(network.return_layers)))])
        )

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the last feature map of the whole network, and the map."""
        maps = self.encoder(image)[-1]
        return {"embedding": maps.mean((2, 3)), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The network, with the levels that timm gives it."""
        return ConvolutionalLevels(self.encoder, self.backbone_name, self.info.channels, layers)

    def patch_vectors(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches dim"]:
        """h of all patches, row by row, of each of which nothing but its own pixels is seen."""
        patches = rearrange(
            (image - self.encoder.mean) / self.encoder.std,
            "b c (h p) (w q) -> (b h w) c p q",
            p=self.patch,
            q=self.patch,
        )
        maps: Tensor = self.patch_network(patches)
        return maps.mean((2, 3)).unflatten(0, (len(image), -1))

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly missing patches are chosen."""
        masking = random_masking(len(image), len(self.noise), self.mask_ratio, image.device)
        patches = self.patch_vectors(image)
        return patch_selection_loss(self.queries(patches, masking), chosen(patches, hidden_patches(masking)))

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with the ones that are chosen for their places."""
        masking = masking_from(self.noise.expand(len(image), -1), self.mask_ratio)
        places = hidden_patches(masking)
        vectors = self.patch_vectors(image)
        scores = self.queries(vectors, masking) @ chosen(vectors, places).mT
        pixels = patchify(normalised(image), self.patch)
        found = chosen(pixels, places.gather(1, scores.argmax(2)))
        filled = pixels.scatter(1, places[:, :, None].expand_as(found), found)
        return shown_and_painted(image, filled, masking.hidden, self.patch, norm_pix_loss=False)


class _Untrained(Selfie):
    """The same network, which keeps the weights that it was initialised with."""

    def __init__(self) -> None:
        super().__init__(weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="Fine-tuned with a tenth of the labels, a network whose first stages learnt to choose missing patches "
    "classifies better than from scratch.",
    where="abstract, and the tables of accuracy with few labels",
    higher_is_better=True,
)
def choosing_patches_beats_training_from_scratch(lab: Lab) -> Trial:
    """Made scenes of single objects; the same network on both sides, all layers of which are fine-tuned."""
    return lab.duel(
        ours=Selfie, baseline=_Untrained, data=FINE_TUNING_DATA, metric="finetune_10", **CLAIM_PLAN
    )
