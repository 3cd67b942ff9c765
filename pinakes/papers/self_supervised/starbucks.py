r"""Zhuang et al., Starbucks: Improved Training for 2D Matryoshka Embeddings, 2024, arXiv:2410.13230.

One transformer is to give embeddings of several sizes: small ones, of a few numbers read behind a few blocks, where
things must go fast, and large ones. Training all combinations of depth and width at random leaves each of them half
trained. Here there is a short list of sizes, from small to large as the cups of the coffee house, and every step trains
each of them: each has a contrastive loss of its own, and what is similar to what must be the same as for the largest.

What the code follows, from the text and from github.com/ielab/Starbucks:

- Representation learning, `ladder_loss`: the sum over the pairs (n, d) of the loss of the first d numbers behind block
  n, and for each but the largest the Kullback-Leibler divergence of its softmax over similarities from the largest's,
  through which no gradient flows.
- The pairs: depths in even steps, and widths of 1/24, 1/12, 1/6, 1/3, 2/3 and all of the largest, `depths`, `widths`.
- Masked pre-training, `LadderPainter`, with `pretraining`: at every pair, one decoder with one set of weights for all
  paints what is hidden, from the tokens cut to d numbers and once more from the embedding alone; the mean of both.
- `RandomSizes`: 2D Matryoshka training, which draws one block and one width in each step and trains them together with
  the whole depth and width (Li et al., 2D Matryoshka Sentence Embeddings, 2024, arXiv:2402.14776).

Differences from the paper: images in place of texts, so views of one image in place of query and passage; cosines with
a temperature in place of scalar products; a vision transformer of 6 blocks with one normalisation behind all exits,
where the paper's model has one in each block; the embedding is the mean over the patches. Masked pre-training sees the
visible patches only, and shares the steps of one training with what follows it.
"""

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.augment import flipped
from pinakes.nn.crops import randomly_cropped
from pinakes.nn.gathering import gathered, rank
from pinakes.nn.masked_autoencoder import (
    MaskedDecoder,
    MaskedEncoder,
    Masking,
    random_masking,
    reconstruction_loss,
)
from pinakes.papers.self_supervised.transformer import TransformerLevels, check_counts, check_width
from pinakes.papers.self_supervised.views import CLAIM_DATA, SHORT_PLAN, FromViews, check_patches
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "Representation learning",
        r"L = \sum_{(n, d) \in S} \ell(V_n^{1:d}) + \lambda \sum_{(n, d) \neq (N, D)} "
        r"\mathrm{KL}(p_N^D \,\|\, p_n^d)",
    ),
    ("Representation learning", r"p_n^d(q, k) \propto \exp(\cos(V_n^{1:d}(q), V_n^{1:d}(k)) / \tau)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

Sizes = Sequence[tuple[int, int]]
"""Pairs of a depth, in blocks, and a width of the embedding."""


def ladder_loss(
    query: Sequence[Float[Tensor, "batch _width"]],
    key: Sequence[Float[Tensor, "batch _width"]],
    temperature: float = 0.2,
    kl_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """At every size each query is to find its own key among all, and to see similarities as the largest size does.

    The keys of all processes are candidates.

    Args:
        query: An embedding of each sample, for each size; the last is the largest, which the others follow.
        key: Likewise of another view of the same samples.
        temperature: What cosines are divided by, above 0.
        kl_weight: Weight of the divergence from the largest, lambda.

    Example:
        >>> views = torch.eye(4)
        >>> sizes = [views[:, :3], views]
        >>> ladder_loss(sizes, sizes) < ladder_loss(sizes, [each.flip(0) for each in sizes])
        tensor(True)
    """
    place = rank() * len(query[0]) + torch.arange(len(query[0]), device=query[0].device)
    logits = [
        functional.normalize(one, dim=1) @ gathered(functional.normalize(other, dim=1)).T / temperature
        for one, other in zip(query, key, strict=True)
    ]
    losses = [functional.cross_entropy(each, place) for each in logits]
    target = logits[-1].detach().log_softmax(1)
    losses += [
        kl_weight * functional.kl_div(each.log_softmax(1), target, reduction="batchmean", log_target=True)
        for each in logits[:-1]
    ]
    return torch.stack(losses).sum()


class LadderPainter(nn.Module):
    """Paints hidden patches from tokens of which only the first numbers are left, with one decoder for all widths.

    Args:
        encoder: Whose tokens it sees.
        channels: Of the images.
        width: Of the decoder, a multiple of 32.
    """

    def __init__(self, encoder: MaskedEncoder, channels: int, width: int = 64) -> None:
        super().__init__()
        self.patch = encoder.patch
        self.decoder = MaskedDecoder(encoder.grid, encoder.patch, channels, encoder.width, width)
        # tokens are normalised before they are cut, and must not be once more afterwards
        self.decoder.register_module("norm", nn.Identity())

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens width"],
        kept: int,
        image: Float[Tensor, "batch channels height width"],
        masking: Masking,
    ) -> Float[Tensor, ""]:
        """How far what is painted is from what is hidden.

        Args:
            tokens: Those of the visible patches, the class token first, normalised.
            kept: How many numbers of each are left.
            image: The images.
            masking: Which patches are visible.
        """
        # zeros in the place of numbers are as good as a decoder without the weights for them
        cut = functional.pad(tokens[..., :kept], (0, tokens.shape[2] - kept))
        from_all = self.decoder(cut, masking.restore)
        from_embedding = self.decoder(cut[:, 1:].mean(1, keepdim=True), masking.restore)
        losses = [
            reconstruction_loss(painted, image, masking.hidden, self.patch, norm_pix_loss=True)
            for painted in (from_all, from_embedding)
        ]
        return torch.stack(losses).mean()


class Starbucks(FromViews):
    """A vision transformer that gives embeddings of several sizes, all of which are trained in every step.

    Args:
        depths: Behind how many blocks each size is read, rising; the last is the depth of the transformer.
        widths: How many numbers each size has, rising, up to `embed_dim`.
        rung: Which of the sizes is the answer, from 0; negative numbers count from the largest, -1.
        kl_weight: Weight of the divergence of similarities from those of the largest size, 0 or more.
        temperature: What cosines are divided by, above 0.
        pretraining: The share of training, from 0 and below 1, in which hidden patches are painted first.
        mask_ratio: Share of the patches that are hidden then, above 0 and below 1.
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the transformer, a multiple of 32.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        depths: Sequence[int] = (1, 2, 3, 4, 5, 6),
        widths: Sequence[int] = (4, 8, 16, 32, 64, 96),
        rung: int = -1,
        kl_weight: float = 1.0,
        temperature: float = 0.2,
        pretraining: float = 0.0,
        mask_ratio: float = 0.75,
        patch: int = 4,
        embed_dim: int = 96,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        check_counts(patch=patch)
        check_width("embed_dim", embed_dim)
        for name, values, most in (("depths", depths, None), ("widths", widths, embed_dim)):
            if not values or values[0] < 1 or any(low >= high for low, high in pairwise(values)):
                raise UserError(f"{name}: expected rising whole numbers of 1 or more, got {list(values)}")
            if most is not None and values[-1] > most:
                raise UserError(f"{name}: expected no more than embed_dim, {most}, got {values[-1]}")
        if len(depths) != len(widths):
            raise UserError(f"widths: expected one for each of {len(depths)} depths, got {len(widths)}")
        if not -len(depths) <= rung < len(depths):
            raise UserError(f"rung: there are {len(depths)} sizes, from 0, and none is {rung}")
        if kl_weight < 0:
            raise UserError(f"kl_weight: expected 0 or more, got {kl_weight}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if not 0 <= pretraining < 1:
            raise UserError(f"pretraining: expected a share from 0 and below 1, got {pretraining}")
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        self.sizes = list(zip(depths, widths, strict=True))
        self.rung, self.kl_weight, self.temperature = rung, kl_weight, temperature
        self.pretraining, self.mask_ratio = pretraining, mask_ratio
        self.patch, self.embed_dim = patch, embed_dim

    def build(self, info: DataInfo) -> None:
        """Makes the transformer, the normalisation behind its exits and, for masked pre-training, the decoder.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        check_patches(info.size, self.patch)
        depth = self.sizes[-1][0]
        self.encoder = MaskedEncoder(info.size, self.patch, info.channels, self.embed_dim, depth)
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        if self.pretraining:
            self.painter = LadderPainter(self.encoder, info.channels)

    def embeddings(
        self, image: Float[Tensor, "batch channels height width"], sizes: Sizes
    ) -> list[Float[Tensor, "batch _width"]]:
        """Embeddings of some sizes: the first numbers of the mean over the patches, behind some block."""
        exits = self.encoder.after(image, [depth for depth, _ in sizes])
        return [
            self.norm(tokens)[:, 1:].mean(1)[:, :width]
            for tokens, (_, width) in zip(exits, sizes, strict=True)
        ]

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The embedding of the chosen size, and the patches cut like it; blocks behind it are not run."""
        depth, width = self.sizes[self.rung]
        tokens = self.norm(self.encoder.after(image, [depth])[0])[:, 1:, :width]
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=self.encoder.grid[0])
        return {"embedding": tokens.mean(1), "features": maps}

    def trained_sizes(self) -> Sizes:
        """The sizes that a step trains, the largest last."""
        return self.sizes

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How badly views find each other at every size; in masked pre-training, how badly patches are painted."""
        if self.done < self.pretraining:
            return self.painting_loss(flipped(randomly_cropped(image)))
        sizes = self.trained_sizes()
        # both views at once, as nothing in the network looks at the whole batch
        both = self.embeddings(torch.cat([self.view(image), self.view(image)]), sizes)
        one, other = zip(*(each.chunk(2) for each in both), strict=True)
        return ladder_loss(one, other, self.temperature, self.kl_weight)

    def painting_loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """The mean over the sizes of how badly hidden patches are painted."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        sizes = self.trained_sizes()
        exits = self.encoder.after(image, [depth for depth, _ in sizes], masking.visible)
        losses = [
            self.painter(self.norm(tokens), width, image, masking)
            for tokens, (_, width) in zip(exits, sizes, strict=True)
        ]
        return torch.stack(losses).mean()

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The transformer, with a level behind each of its blocks; negative numbers count from the last.

        Raises:
            UserError: If there is no such block.
        """
        return TransformerLevels(self.encoder, layers)


class RandomSizes(Starbucks):
    """2D Matryoshka training: one depth and one width are drawn in each step, and trained with the largest.

    The options are those of `Starbucks`; depths and widths, of which there must be two or more, may meet in any pair.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        if len(self.sizes) < 2:
            raise UserError("depths: expected two or more to draw from")

    def trained_sizes(self) -> Sizes:
        """The drawn depth and width, each with the other and with the largest."""
        drawn = torch.rand(1, 2, device=self.device)
        # all processes take what the first has drawn
        depth, width = (gathered(drawn)[0] * (len(self.sizes) - 1)).long().tolist()
        largest = self.sizes[-1]
        return list(product((self.sizes[depth][0], largest[0]), (self.sizes[width][1], largest[1])))


@claim(
    text="A nearest-neighbour classifier is right more often with the smallest embedding when every step trains a "
    "fixed list of sizes than when each draws a depth and a width.",
    where="abstract; in-domain results for the size Demi",
    higher_is_better=True,
)
def a_fixed_list_beats_random_sizes(lab: Lab) -> Trial:
    """Handwritten digits; the same transformer; both sides are judged by 4 numbers behind its first block."""
    return lab.duel(
        ours=lambda: Starbucks(rung=0),
        baseline=lambda: RandomSizes(rung=0),
        data=CLAIM_DATA,
        metric="knn",
        **SHORT_PLAN,
    )


@claim(
    text="With an embedding of middle size, trained together with five others, a nearest-neighbour classifier is right "
    "no less often than with one that was trained by itself.",
    where="abstract; in-domain results for the size Tall",
    higher_is_better=True,
    margin=0.02,
)
def a_shared_model_is_no_worse_than_a_separate_one(lab: Lab) -> Trial:
    """As above, with 16 numbers behind three blocks; by itself it is trained without any further blocks."""
    return lab.duel(
        ours=lambda: Starbucks(rung=2),
        baseline=lambda: Starbucks(depths=(3,), widths=(16,)),
        data=CLAIM_DATA,
        metric="knn",
        **SHORT_PLAN,
    )
