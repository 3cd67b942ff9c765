r"""Zhai et al., Position Prediction as an Effective Pretraining Strategy, ICML 2022, arXiv:2207.07611.

A transformer that is not told where patches lie sees an image as a jumble of them, like the pieces of a puzzle. It
learns to say of every piece where in the picture it belongs, and for that must know what is in it. The puzzle is made
harder, and attention cheaper, by letting all pieces look at only a few of them.

What the code follows, with x_i the tokens of the N patches and C a random subset of the patches, the context:

- Encoder, `ContextEncoder`: a vision transformer without positions and without class token.
- Attention, `context_attention`, in every block: all patches ask, and only the context answers,
  y_i = sum over j in C of softmax_j(q_i . k_j / sqrt(d)) v_j. All patches are computed in all blocks, and C is the same
  in all. It is self-attention with all columns but those of C masked, without computing them.
- Objective, `position_loss`: a linear layer behind the last normalisation gives each patch a probability for each of N
  places, L = -1/N sum over i of log p_i(i), over patches inside and outside of C.
- Fine-tuning: the linear layer is dropped, all patches answer, and positions are added or not (`positions`).

Differences from the paper: the networks are small by default (a patch of 4 pixels, 6 blocks of width 96), for images of
32 pixels. Three quarters of the patches are outside of the context. The relaxed labels, which give neighbouring places
a part of the probability, and the experiments on speech are left out. Positions of fine-tuning start as sines and
cosines. The embedding is the mean over the patches behind the last normalisation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.masked_autoencoder import (
    MaskedEncoder,
    normalised,
    patchify,
    random_masking,
    unpatchify,
    visible_only,
)
from pinakes.papers.self_supervised.base import CLAIM_DATA, CLAIM_PLAN, no_loss
from pinakes.papers.self_supervised.transformer import PatchTransformer
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "Attention",
        r"y_i = \sum_{j \in C} \mathrm{softmax}_j \bigl( q_i^\top k_j / \sqrt{d} \bigr) \, v_j, \quad i = 1, \dots, N",
    ),
    ("Objective", r"L = -\frac{1}{N} \sum_{i=1}^{N} \log p_i(i)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

CLAIM_NETWORK = {"patch": 8, "depth": 3}
"""Of the claims: every step computes all patches, not a quarter as a masked autoencoder's; so they are few."""
FINE_TUNING_DATA = CLAIM_DATA + "&finetune=10"


def context_attention(
    attention: Any,
    tokens: Float[Tensor, "batch patches width"],
    context: Float[Tensor, "batch kept width"],
) -> Float[Tensor, "batch patches width"]:
    """Attention in which all tokens ask and a few answer.

    Args:
        attention: timm's `Attention`, of which the weights are used; without dropout or norms of queries and keys.
        tokens: Of which queries are made.
        context: Of which keys and values are made.

    Example:
        >>> from timm.layers import Attention
        >>> attention, tokens = Attention(32, num_heads=2, qkv_bias=True), torch.rand(2, 5, 32)
        >>> context_attention(attention, tokens, tokens[:, :2]).shape
        torch.Size([2, 5, 32])
    """
    width = tokens.shape[2]
    weight, bias = attention.qkv.weight, attention.qkv.bias
    asked = functional.linear(tokens, weight[:width], None if bias is None else bias[:width])
    told = functional.linear(context, weight[width:], None if bias is None else bias[width:])
    query = rearrange(asked, "b n (h d) -> b h n d", h=attention.num_heads)
    key, value = rearrange(told, "b n (two h d) -> two b h n d", two=2, h=attention.num_heads)
    answered = functional.scaled_dot_product_attention(query, key, value)
    mixed: Tensor = attention.proj(rearrange(answered, "b h n d -> b n (h d)"))
    return mixed


def context_block(
    block: Block, tokens: Float[Tensor, "batch patches width"], context: Int[Tensor, "batch kept"]
) -> Float[Tensor, "batch patches width"]:
    """A block of a vision transformer in which keys and values are made of a few tokens only.

    Args:
        block: timm's, of which the weights are used.
        tokens: All tokens.
        context: Numbers of those that keys and values are made of.
    """
    normal = block.norm1(tokens)
    answered = context_attention(block.attn, normal, visible_only(normal, context))
    tokens = tokens + block.drop_path1(block.ls1(answered))
    changed: Tensor = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return changed


def position_loss(logits: Float[Tensor, "batch patches patches"]) -> Float[Tensor, ""]:
    """The cross-entropy of the place of every patch.

    Args:
        logits: For each patch, row by row of the image, its places in the same order.

    Source: the objective.

    Example:
        >>> position_loss(torch.zeros(1, 8, 8)).exp().round()
        tensor(8.)
    """
    places = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    return functional.cross_entropy(logits.mT, places)


def put_back(
    patches: Float[Tensor, "batch patches values"], logits: Float[Tensor, "batch patches patches"]
) -> Float[Tensor, "batch patches values"]:
    """Patches put where they are thought to belong: each place holds the mean of them, weighted by their probabilities.

    Args:
        patches: In any order.
        logits: For each patch, in the same order, its places, row by row of the image.

    Example:
        >>> jumbled, thought = torch.tensor([[[7.0], [5.0]]]), torch.tensor([[[-99.0, 99.0], [99.0, -99.0]]])
        >>> put_back(jumbled, thought).flatten()
        tensor([5., 7.])
    """
    # the softmax over the patches of log p makes a weighted mean of them, however small all p are
    share = logits.log_softmax(2).softmax(1)
    return share.mT @ patches


class ContextEncoder(MaskedEncoder):
    """A vision transformer that is not told where patches lie, and whose patches look at only a few of them.

    Args:
        size: Height and width of the images in pixels, multiples of `patch`.
        patch: Side of a patch in pixels.
        channels: Of the images.
        width: Of the tokens, a multiple of 32; a head of attention for each 32.
        depth: Number of blocks.
        positions: Whether positions are added to the patches of an image that is looked at as a whole.

    Raises:
        ValueError: If the size is no multiple of the patch, or the width none of 32.

    Example:
        >>> encoder = ContextEncoder((32, 32), patch=4, width=32, depth=2)
        >>> encoder(torch.rand(2, 3, 32, 32), random_masking(2, encoder.patches, 0.75).visible).shape
        torch.Size([2, 64, 32])
    """

    def __init__(
        self,
        size: tuple[int, int],
        patch: int = 4,
        channels: int = 3,
        width: int = 64,
        depth: int = 4,
        positions: bool = False,
    ) -> None:
        super().__init__(size, patch, channels, width, depth)
        network = self.network
        network.cls_token = None
        network.pos_embed = nn.Parameter(network.pos_embed[:, 1:], requires_grad=False) if positions else None
        network.norm = nn.LayerNorm(width, eps=1e-6)

    def after(
        self,
        image: Float[Tensor, "batch channels height width"],
        blocks: Sequence[int],
        visible: Int[Tensor, "batch kept"] | None = None,
    ) -> list[Float[Tensor, "batch tokens _width"]]:
        """The tokens of all patches after some of the blocks, the last block's normalised; no class token.

        Args:
            image: Images in [0, 1] of the encoder's size.
            blocks: After how many blocks, each from 1 to the depth.
            visible: Numbers of the patches of the context; None for all, and for positions where there are any.
        """
        network = self.network
        tokens = network.patch_embed(normalised(image))
        if visible is None and network.pos_embed is not None:
            tokens = tokens + network.pos_embed
        found = {}
        for count, block in enumerate(network.blocks[: max(blocks)], start=1):
            tokens = block(tokens) if visible is None else context_block(block, tokens, visible)
            if count in blocks:
                found[count] = network.norm(tokens) if count == self.depth else tokens
        return [found[count] for count in blocks]

    def maps(self, tokens: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch width rows columns"]:
        """Tokens of all patches as a feature map."""
        return rearrange(tokens, "b (h w) c -> b c h w", h=self.grid[0])


class MP3(PatchTransformer):
    """A vision transformer that learns to say where in an image its patches lie.

    Args:
        positions: Whether positions are added to the patches once it has learnt, for fine-tuning; they are trained
            there alone.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, positions: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.positions = positions

    def build(self, info: DataInfo) -> None:
        """Makes the encoder and the layer that says the place.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        self.encoder = ContextEncoder(
            info.size, self.patch, info.channels, self.embed_dim, self.depth, self.positions
        )
        self.head = nn.Linear(self.embed_dim, self.encoder.patches)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the patches, and the patches, of whole images."""
        tokens = self.encoder(image)
        return {"embedding": tokens.mean(1), "features": self.encoder.maps(tokens)}

    def places(
        self, image: Float[Tensor, "batch channels height width"], context: Int[Tensor, "batch kept"]
    ) -> Float[Tensor, "batch patches patches"]:
        """For each patch the logits of its places.

        Args:
            image: Images in [0, 1] of the method's size.
            context: Numbers of the patches that all look at.
        """
        logits: Tensor = self.head(self.encoder(image, context))
        return logits

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """The objective, for a random context."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        return position_loss(self.places(image, masking.visible))

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """The patches of images jumbled, in the same way for all, and put where they are thought to belong."""
        patches, size = patchify(image, self.patch), (image.shape[-2], image.shape[-1])
        logits = self.places(image, self.same_masking(len(image)).visible)
        return {
            "shown": unpatchify(patches[:, self.noise.argsort()], self.patch, size),
            "reconstruction": unpatchify(put_back(patches, logits), self.patch, size),
        }


class _Small(MP3):
    """The transformer of the claims."""

    def __init__(self, positions: bool = False, **shared: Any) -> None:
        super().__init__(positions, **CLAIM_NETWORK, **shared)


class _Untrained(_Small):
    """The same transformer, which keeps the weights that it was initialised with until it is fine-tuned."""

    def __init__(self, positions: bool = False) -> None:
        super().__init__(positions, weight_decay=0.0)

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """Nothing to learn from."""
        return no_loss(self)


@claim(
    text="Fine-tuned, a transformer that has learnt to say where patches lie classifies better than from scratch.",
    where="abstract",
    higher_is_better=True,
)
def pretraining_beats_training_from_scratch(lab: Lab) -> Trial:
    """As above; all layers are trained on a tenth of the labels, without positions on both sides."""
    return lab.duel(
        ours=_Small, baseline=_Untrained, data=FINE_TUNING_DATA, metric="finetune_10", **CLAIM_PLAN
    )


@claim(
    text="Pre-trained and fine-tuned without positions, a transformer classifies better than from scratch with them.",
    where="abstract",
    higher_is_better=True,
)
def pretraining_without_positions_beats_positions_from_scratch(lab: Lab) -> Trial:
    """As above, with positions for the baseline alone."""
    return lab.duel(
        ours=_Small,
        baseline=lambda: _Untrained(positions=True),
        data=FINE_TUNING_DATA,
        metric="finetune_10",
        **CLAIM_PLAN,
    )
