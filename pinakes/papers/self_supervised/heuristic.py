r"""Qian, Heuristic Vision Pre-Training with Self-Supervised and Supervised Multi-Task Learning, arXiv 2023,
arXiv:2310.07510.

A viewer notes of a picture what is in it, where, and how it looks. Boxes and relations of things are costly to write
down, and tags are not. So one encoder learns from three tasks at a time: to name all that is in the picture, to paint
what is hidden of it, and to know its views again. Tags say what there is; the other two tasks have it look at every
patch.

What the code follows:

- The abstract's three tasks as one weighted sum on one encoder, `training_step`: L = w_t L_tags + w_m L_MIM +
  w_c L_con.
- Multi-label classification, `multi_label_loss`: the binary cross-entropy of every tag.
- Masked image modelling, `pinakes.nn.masked_autoencoder`: the mean squared error of hidden patches.
- Contrastive learning, `nt_xent_loss` of `pinakes.nn.contrastive`: each view finds the other one of its image.

The text at hand names the tasks and says neither which losses of their kinds are meant nor their weights: those above
are the plainest, and the weights are such that all three are of like size at the start.

Differences from the paper: a small vision transformer in place of Swin-B, to which masked patches are not shown at all;
tags are the classes that have a pixel in the picture, or a class of the picture, where the data have no `tags`. A tag
stands for the whole picture, and views show a part of it, by default not less than two fifths.
"""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.contrastive import nt_xent_loss
from pinakes.nn.masked_autoencoder import (
    MaskedDecoder,
    MaskedEncoder,
    random_masking,
    reconstruction_loss,
)
from pinakes.nn.painting import shown_and_painted
from pinakes.nn.projection import projection_head
from pinakes.papers.self_supervised.transformer import TransformerLevels, check_counts, check_width
from pinakes.papers.self_supervised.views import SHORT_PLAN, FromViews, check_patches
from pinakes.tasks.base import Batch, Prediction

EQUATIONS = (
    (
        "The abstract's three tasks",
        r"L = w_t L_{\mathrm{tags}} + w_m L_{\mathrm{MIM}} + w_c L_{\mathrm{con}}",
    ),
    (
        "Multi-label classification",
        r"L_{\mathrm{tags}} = -\frac{1}{C} \sum_{c=1}^{C} y_c \log \sigma(s_c) + (1 - y_c) \log (1 - \sigma(s_c))",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

TAGS = ("tags", "semantic", "label")
"""Fields of samples that tags are taken from: the first that there is."""


def present(semantic: Int[Tensor, "batch height width"], classes: int) -> Float[Tensor, "batch classes"]:
    """1 for each class that has a pixel in the picture, else 0.

    Args:
        semantic: The class of each pixel, -1 for none.
        classes: How many there are.

    Example:
        >>> present(torch.tensor([[[0, 2], [-1, 2]]]), 4)
        tensor([[1., 0., 1., 0.]])
    """
    # pixels without a class go to a column more, which is cut off
    places = semantic.flatten(1).remainder(classes + 1)
    return torch.zeros(len(semantic), classes + 1, device=semantic.device).scatter(1, places, 1.0)[
        :, :classes
    ]


def multi_label_loss(
    logits: Float[Tensor, "batch tags"],
    tags: Float[Tensor, "batch tags"],
    known: Bool[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """The binary cross-entropy, averaged over tags and images.

    Args:
        logits: What the network says of each tag.
        tags: 1 for the tags of an image, 0 for others.
        known: Whether the tags of an image are known; others count as 0. By default all are.

    Example:
        >>> multi_label_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor(0.6931)
    """
    each = functional.binary_cross_entropy_with_logits(logits, tags, reduction="none").mean(1)
    return (each if known is None else each * known).mean()


class HeuristicPreTraining(FromViews):
    """A vision transformer that learns from tags, from hidden patches and from views, all at a time.

    Args:
        tags_weight: Of the loss of tags, 0 or more; 0 leaves the task out, as it does for the others.
        masked_weight: Of the loss of hidden patches.
        contrast_weight: Of the loss of views.
        mask_ratio: Share of the patches that are hidden, above 0 and below 1.
        temperature: What cosines of views are divided by, above 0.
        projection: Width of the output of the views' head.
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the encoder, a multiple of 32.
        depth: Blocks of the encoder.
        decoder_embed_dim: Width of the decoder that paints, a multiple of 32.
        decoder_depth: Its blocks.
        least_area: The smallest share of an image's area that a view shows.
        colour: How strongly colours are changed: 0 for not at all, 1 as in SimCLR.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    example_data = "scenes:segmentation?size=32&n=40"

    def __init__(
        self,
        tags_weight: float = 1.0,
        masked_weight: float = 1.0,
        contrast_weight: float = 0.2,
        mask_ratio: float = 0.75,
        temperature: float = 0.2,
        projection: int = 64,
        patch: int = 4,
        embed_dim: int = 96,
        depth: int = 6,
        decoder_embed_dim: int = 64,
        decoder_depth: int = 2,
        least_area: float = 0.4,
        colour: float = 0.5,
        **shared: Any,
    ) -> None:
        super().__init__(least_area=least_area, colour=colour, **shared)
        weights = {
            "tags_weight": tags_weight,
            "masked_weight": masked_weight,
            "contrast_weight": contrast_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        if not any(weights.values()):
            raise UserError("tags_weight, masked_weight, contrast_weight: all are 0; give one above 0")
        if not 0 < mask_ratio < 1:
            raise UserError(f"mask_ratio: expected a share above 0 and below 1, got {mask_ratio}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        check_width("embed_dim", embed_dim)
        check_width("decoder_embed_dim", decoder_embed_dim)
        check_counts(projection=projection, patch=patch, depth=depth, decoder_depth=decoder_depth)
        self.tags_weight, self.masked_weight, self.contrast_weight = weights.values()
        self.mask_ratio, self.temperature, self.projection = mask_ratio, temperature, projection
        self.patch, self.embed_dim, self.depth = patch, embed_dim, depth
        self.decoder_embed_dim, self.decoder_depth = decoder_embed_dim, decoder_depth

    def build(self, info: DataInfo) -> None:
        """Makes the encoder, and a head for each task.

        Raises:
            UserError: If images cannot be cut into two patches or more, or there are no tags.
        """
        check_patches(info.size, self.patch)
        self.encoder = MaskedEncoder(info.size, self.patch, info.channels, self.embed_dim, self.depth)
        self.norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        if self.tags_weight:
            if len(info.classes) < 2:
                raise UserError(
                    f"data: {type(self).__name__} learns from tags, of which there must be two or more, got "
                    f"{len(info.classes)}; put the images into a folder for each class, or set tags_weight to 0"
                )
            self.tags_head = nn.Linear(self.embed_dim, len(info.classes))
        if self.masked_weight:
            self.decoder = MaskedDecoder(
                self.encoder.grid,
                self.patch,
                info.channels,
                self.embed_dim,
                self.decoder_embed_dim,
                self.decoder_depth,
            )
        if self.contrast_weight:
            self.views_head = projection_head([self.embed_dim, self.embed_dim, self.projection])

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        """Makes sure that there are tags.

        Raises:
            UserError: If there are none.
        """
        if self.tags_weight and not set(TAGS) & set(data.train[0]):
            raise UserError(
                f"{data.spec}: {type(self).__name__} learns from tags, or classes of images or pixels "
                f"({', '.join(TAGS)}), which these data lack; data such as {self.example_data} have them"
            )

    # -- the encoder -----------------------------------------------------------------------------------------

    def tokens(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch patches _width"]:
        """The normalised tokens of all patches."""
        tokens: Tensor = self.norm(self.encoder(image))
        return tokens[:, 1:]

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The mean over the patches, and the patches, of whole images."""
        tokens = self.tokens(image)
        maps = rearrange(tokens, "b (h w) c -> b c h w", h=self.encoder.grid[0])
        return {"embedding": tokens.mean(1), "features": maps}

    def as_backbone(self, layers: Sequence[int]) -> nn.Module:
        """The encoder, with a level behind each of its blocks; negative numbers count from the last.

        Raises:
            UserError: If there is no such block.
        """
        return TransformerLevels(self.encoder, layers)

    # -- the three tasks -------------------------------------------------------------------------------------

    def tags_of(self, batch: Batch) -> tuple[Float[Tensor, "batch tags"], Bool[Tensor, " batch"]]:
        """The tags of a batch, and of which images they are known."""
        if "tags" in batch:
            tags = batch["tags"].float()
            return tags, torch.ones(len(tags), dtype=torch.bool, device=tags.device)
        classes = len(self.info.classes)
        if "semantic" in batch:
            return present(batch["semantic"], classes), (batch["semantic"] >= 0).flatten(1).any(1)
        label = batch["label"]
        return functional.one_hot(label.clamp(min=0), classes).float(), label >= 0

    def paint(self, image: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor]:
        """All patches as they are painted from the visible ones, and which are hidden."""
        masking = random_masking(len(image), self.encoder.patches, self.mask_ratio, image.device)
        return self.decoder(self.encoder(image, masking.visible), masking.restore), masking.hidden

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The weighted sum of the tasks."""
        image = self.sized(batch["image"])
        one, other = self.view(image), self.view(image)
        total = image.new_zeros(())
        if self.tags_weight or self.contrast_weight:
            embedding = self.tokens(torch.cat([one, other])).mean(1)
            if self.tags_weight:
                tags, known = (each.repeat(2, *[1] * (each.ndim - 1)) for each in self.tags_of(batch))
                total = total + self.tags_weight * multi_label_loss(self.tags_head(embedding), tags, known)
            if self.contrast_weight:
                first, second = self.views_head(embedding).chunk(2)
                total = total + self.contrast_weight * nt_xent_loss(first, second, self.temperature)
        if self.masked_weight:
            painted, hidden = self.paint(one)
            loss = reconstruction_loss(painted, one, hidden, self.patch, norm_pix_loss=True)
            total = total + self.masked_weight * loss
        return total

    def painted(self, image: Float[Tensor, "batch channels height width"]) -> dict[str, Tensor]:
        """Two views of each image, and what is painted of the images; the same every time."""
        found = super().painted(image)
        if not self.masked_weight:
            return found
        with isolated(0):
            painted, hidden = self.paint(image)
        return found | shown_and_painted(image, painted, hidden, self.patch, norm_pix_loss=True)


SEGMENTED = "scenes:segmentation?size=24&n=2000&things=1"
"""Made scenes of one thing or two, whose tags are their classes; among more each is too small for a patch to tell."""

SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 4}
"""The network of claims, small because every step computes all patches of two views."""


@claim(
    text="From patches of an encoder that learnt from tags, hidden patches and views a linear classifier reads more of "
    "the classes of pixels than from one that learnt from tags alone.",
    where="abstract; the results of semantic segmentation",
    higher_is_better=True,
)
def three_tasks_beat_tags_alone(lab: Lab) -> Trial:
    """Made scenes of one thing or two, tagged with what is in them; the same transformer and views, equal steps."""
    return lab.duel(
        ours=lambda: HeuristicPreTraining(**SMALL),
        baseline=lambda: HeuristicPreTraining(masked_weight=0.0, contrast_weight=0.0, **SMALL),
        data=SEGMENTED,
        metric="linear_miou",
        **SHORT_PLAN,
    )


@claim(
    text="From patches of an encoder that learnt from tags, hidden patches and views a linear classifier reads more of "
    "the classes of pixels than from one that learnt without tags.",
    where="abstract: signals from labelled data are important as well",
    higher_is_better=True,
)
def tags_add_to_the_other_tasks(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: HeuristicPreTraining(**SMALL),
        baseline=lambda: HeuristicPreTraining(tags_weight=0.0, **SMALL),
        data=SEGMENTED,
        metric="linear_miou",
        **SHORT_PLAN,
    )
