r"""Chen et al., Context Autoencoder for Self-Supervised Representation Learning, IJCV 2023, arXiv:2202.03026.

In a masked autoencoder the encoder may do a part of the painting. Here it does not: from what it says of the visible
patches a regressor foretells what it would say of the hidden ones, and a decoder paints the hidden patches from these
foretold representations alone. An alignment keeps them where the encoder's own are.

What the code follows, with Z_v what the encoder says of visible patches, Z_m of hidden ones, Q mask queries with the
positions of the hidden patches:

- Encoder: a vision transformer on the visible patches, with a last normalisation.
- Latent contextual regressor, `Regressor`: blocks in which Q asks Z_v and Q itself by cross-attention; the visible
  representations are never changed. Its answer is Z*_m.
- Decoder, `Decoder`: blocks of self-attention on Z*_m with the positions of the hidden patches, and a linear layer.
- Objective, `context_autoencoder_loss`: L = l_y(Y*_m, Y_m) + lambda ||Z*_m - sg[Z_m]||^2, both means, lambda = 2; Z_m
  is what the same encoder, without gradients, says of the hidden patches seen alone.

Order of normalisations and residuals, the layer scale of regressor and decoder, and lambda are those of the authors'
code (github.com/Atten4Vis/CAE).

Differences from the paper: the target is normalised pixels, with the squared error, in place of a tokenizer's discrete
tokens with the cross-entropy; half of the patches are hidden, at random and not in blocks. The embedding is the mean
over the patches; encoder, regressor and decoder are small, the latter of two blocks each in place of four. The encoder
has neither layer scale nor dropped paths, gradients are not clipped, and weights start as those of masked autoencoders.
"""

from typing import Any

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.masked_autoencoder import (
    HEAD_WIDTH,
    Masking,
    normalised,
    patchify,
    positions,
    random_masking,
    standardised,
    visible_only,
)
from pinakes.nn.painting import shown_and_painted
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN
from pinakes.papers.self_supervised.mae import MAE
from pinakes.papers.self_supervised.transformer import PatchTransformer, check_counts, hidden_patches

EQUATIONS = (
    ("Objective", r"L = \ell_y(Y^*_m, Y_m) + \lambda \, \lVert Z^*_m - \mathrm{sg}[Z_m] \rVert_2^2"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

LAYER_SCALE = 0.1


class CrossAttentionBlock(nn.Module):
    """A block in which queries ask a context; positions are added to queries and keys, not to values.

    Args:
        width: Of all tokens, a multiple of 32.

    Source: the authors' code.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.norm_query, self.norm_key, self.norm_value, self.norm = (
            nn.LayerNorm(width, eps=1e-6) for _ in range(4)
        )
        self.query = nn.Linear(width, width)
        # a bias of the keys would change no attention
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scales = nn.Parameter(torch.full((2, width), LAYER_SCALE))

    def forward(
        self,
        query: Float[Tensor, "batch hidden width"],
        context: Float[Tensor, "batch tokens width"],
        query_place: Float[Tensor, "batch hidden width"],
        place: Float[Tensor, "batch tokens width"],
    ) -> Float[Tensor, "batch hidden width"]:
        """The queries, with what they were answered.

        Args:
            query: Queries.
            context: What they ask.
            query_place: Their positions.
            place: Those of the context.
        """
        asked = self.query(self.norm_query(query + query_place))
        keys = self.key(self.norm_key(context + place))
        values = self.value(self.norm_value(context))
        parts = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (asked, keys, values))
        answered = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        found = self.norm(query + self.scales[0] * self.project(answered))
        told: Tensor = found + self.scales[1] * self.mlp(found)
        return told


class Regressor(nn.Module):
    """Foretells what the encoder would say of hidden patches from what it says of visible ones.

    Args:
        width: Of the tokens.
        depth: Number of blocks.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.blocks = nn.ModuleList(CrossAttentionBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(
        self,
        visible: Float[Tensor, "batch kept width"],
        place: Float[Tensor, "batch kept width"],
        hidden_place: Float[Tensor, "batch hidden width"],
    ) -> Float[Tensor, "batch hidden width"]:
        """Z*_m, from Z_v and the positions of visible and hidden patches."""
        query = self.mask_token.expand_as(hidden_place)
        places = torch.cat([place, hidden_place], dim=1)
        for block in self.blocks:
            query = block(query, torch.cat([visible, query], dim=1), hidden_place, places)
        foretold: Tensor = self.norm(query)
        return foretold


class Decoder(nn.Module):
    """Paints hidden patches from their foretold representations, without a look at the visible ones.

    Args:
        width: Of the tokens.
        depth: Number of blocks.
        values: Numbers of a patch.
    """

    def __init__(self, width: int, depth: int, values: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Block(width, width // HEAD_WIDTH, qkv_bias=True, init_values=LAYER_SCALE)
                for _ in range(depth)
            ),
            nn.LayerNorm(width, eps=1e-6),
        )
        self.paint = nn.Linear(width, values)

    def forward(
        self, foretold: Float[Tensor, "batch hidden width"], place: Float[Tensor, "batch hidden width"]
    ) -> Float[Tensor, "batch hidden values"]:
        """The pixels of hidden patches."""
        painted: Tensor = self.paint(self.blocks(foretold + place))
        return painted


def context_autoencoder_loss(
    painted: Float[Tensor, "batch hidden values"],
    target: Float[Tensor, "batch hidden values"],
    foretold: Float[Tensor, "batch hidden width"],
    own: Float[Tensor, "batch hidden width"],
    align: float = 2.0,
) -> Float[Tensor, ""]:
    """The error of the painted patches plus lambda times the distance of foretold from own representations.

    Args:
        painted: Y*_m.
        target: Y_m.
        foretold: Z*_m.
        own: Z_m; no gradient flows to it.
        align: lambda.

    Example:
        >>> zeros, ones = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
        >>> context_autoencoder_loss(zeros, ones, zeros, ones, align=2.0)
        tensor(3.)
    """
    return functional.mse_loss(painted, target) + align * functional.mse_loss(foretold, own.detach())


class CAE(PatchTransformer):
    """A vision transformer from whose answers those for hidden patches can be foretold.

    Args:
        mask_ratio: Share of the patches that are hidden, above 0 and below 1.
        align: lambda, the weight of the alignment.
        regressor_depth: Blocks of the regressor.
        decoder_depth: Blocks of the decoder.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    places: Tensor

    def __init__(
        self,
        mask_ratio: float = 0.5,
        align: float = 2.0,
        regressor_depth: int = 2,
        decoder_depth: int = 2,
        **shared: Any,
    ) -> None:
        super().__init__(mask_ratio, **shared)
        if align < 0:
            raise UserError(f"align: expected 0 or more, got {align}")
        check_counts(regressor_depth=regressor_depth, decoder_depth=decoder_depth)
        self.align, self.regressor_depth, self.decoder_depth = align, regressor_depth, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes encoder, regressor and decoder.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.regressor = Regressor(self.embed_dim, self.regressor_depth)
        self.decoder = Decoder(self.embed_dim, self.decoder_depth, self.patch**2 * info.channels)
        self.register_buffer("places", positions(*self.encoder.grid, self.embed_dim)[:, 1:], persistent=False)

    def normal(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """Tokens behind the last normalisation."""
        normal: Tensor = self.norm(tokens)
        return normal

    def foretell(
        self, image: Float[Tensor, "batch channels height width"], masking: Masking, hidden: Tensor
    ) -> tuple[Float[Tensor, "batch hidden dim"], Float[Tensor, "batch hidden values"]]:
        """What the encoder would say of hidden patches, and these as they are painted from that.

        Args:
            image: Images in [0, 1] of the method's size.
            masking: What is visible.
            hidden: Numbers of the hidden patches (batch, hidden), in any order.
        """
        everywhere = self.places.expand(len(image), -1, -1)
        place, hidden_place = (visible_only(everywhere, each) for each in (masking.visible, hidden))
        visible = self.normal(self.encoder(image, masking.visible))[:, 1:]
        foretold = self.regressor(visible, place, hidden_place)
        return foretold, self.decoder(foretold, hidden_place)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """The objective, for random patches."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        hidden = hidden_patches(masking)
        foretold, painted = self.foretell(image, masking, hidden)
        with torch.no_grad():
            own = self.normal(self.encoder(image, hidden))[:, 1:]
        target = visible_only(standardised(patchify(normalised(image), self.patch)), hidden)
        return context_autoencoder_loss(painted, target, foretold, own, self.align)

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Images of which some patches are grey, and with these painted; the same ones in all images."""
        masking = self.same_masking(len(image))
        hidden = hidden_patches(masking)
        _, found = self.foretell(image, masking, hidden)
        patches = torch.zeros_like(patchify(image, self.patch))
        patches = patches.scatter(
            1, hidden[:, :, None].expand(-1, -1, patches.shape[2]), found.to(patches.dtype)
        )
        return shown_and_painted(image, patches, masking.hidden, self.patch, norm_pix_loss=True)


@claim(
    text="Aligning foretold representations with the encoder's own makes features from which a linear classifier reads "
    "more than painting alone.",
    where="section 4.2, table 2",
    higher_is_better=True,
)
def alignment_helps(lab: Lab) -> Trial:
    """Made scenes of single objects; the same networks on both sides."""
    return lab.duel(
        ours=CAE, baseline=lambda: CAE(align=0.0), data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN
    )


@claim(
    text="A linear classifier reads more from a context autoencoder's features than from a masked autoencoder's.",
    where="section 4.2, table 1",
    higher_is_better=True,
)
def cae_beats_mae(lab: Lab) -> Trial:
    """Made scenes of single objects; the same encoder on both sides."""
    return lab.duel(ours=CAE, baseline=MAE, data=CLAIM_DATA, metric="linear_probe", **CLAIM_PLAN)
