r"""Chen et al., DearKD: Data-Efficient Early Knowledge Distillation for Vision Transformers, CVPR 2022,
arXiv:2204.12997.

A transformer needs many images because it must find out for itself that neighbours belong together, which a
convolutional network knows from the start. In a first stage the transformer learns this from the early layers of such
a network, and its answers as well; its own first blocks have an attention that can be a convolution. In a second stage
it is left to itself and learns from labels alone, so that the teacher's view does not hold it back.

What the code follows, with query and key q_i, k_j of a head, and delta = (d1, d2) from patch i to patch j:

- Convolutional attention of several heads, `ConvolutionalAttention`: a_ij = softmax_j(q_i k_j / sqrt(d) + v r_delta),
  r_delta = (|delta|^2, d1, d2) with v learned for each head. With v = -s (1, -2 c1, -2 c2) a head looks at the patch
  that is c = (c1, c2) away, the more strictly the larger s, so that N heads are a convolution of sqrt(N) x sqrt(N)
  patches. That is where the heads start (Cordonnier et al., arXiv:1911.03584, theorem 1 and equation 9; d'Ascoli et
  al., arXiv:2103.10697, equation 8).
- First stage, `first_stage_loss`: alpha CE(class token, label) + (1 - alpha) CE(distillation token, the teacher's most
  probable class) + beta MSE(Align(early features), the teacher's early features); the first two terms are DeiT's hard
  distillation (Touvron et al., arXiv:2012.12877, equation 3).
- Second stage: the cross-entropy of the labels, for the mean of the two tokens' logits, which is also the prediction.

Differences from the paper: its text and code were not at hand, only its abstract and what later work says of it. So
these are ours: content and place are summed inside the softmax, after the works named above; class and distillation
token see every place alike; the aligner is a resize, a normalisation, a 3x3 convolution of each channel and a linear
layer across them; early means the first half of the blocks, and the first of the teacher's three feature levels; the
weights, and the share of the first stage. Left out are the images made without data, as the loss that sets them apart
(boundary-preserving intra-divergence) could not be settled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.masked_autoencoder import normalised
from pinakes.papers.distillation.base import CLAIM_DATA, CLAIM_STEPS, Distiller
from pinakes.papers.distillation.classifier import Answer, Augmentation, labelled_cross_entropy
from pinakes.tasks.base import Batch

EQUATIONS = (
    ("Convolutional attention", r"a_{ij} = \mathrm{softmax}_j (q_i^\top k_j / \sqrt{d} + v^\top r_\delta)"),
    (
        "First stage",
        r"L = \alpha \, \mathrm{CE}(z_{cls}, t) + (1 - \alpha) \, \mathrm{CE}(z_{dist}, \arg\max z^T) "
        r"+ \beta \, \lVert \mathrm{Align}(F^S) - F^T \rVert^2",
    ),
    ("Second stage", r"L = \mathrm{CE}\left((z_{cls} + z_{dist}) / 2, t\right)"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

HEADS = 4
"""Heads of attention: as a convolution, 2 x 2 patches."""


def kernel_offsets(heads: int) -> Float[Tensor, "heads 2"]:
    """Rows and columns, from the patch itself, at which the heads of a square convolution look.

    Args:
        heads: Their number, a square.

    Raises:
        ValueError: If it is none.

    Example:
        >>> kernel_offsets(4).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    side = math.isqrt(heads)
    if side**2 != heads or heads < 1:
        raise ValueError(f"heads: expected a square number, got {heads}")
    steps = torch.arange(side).float() - (side - 1) // 2
    return torch.cartesian_prod(steps, steps).view(heads, 2)


def relative_places(rows: int, columns: int) -> Float[Tensor, "patches patches 3"]:
    """r_delta = (|delta|^2, d1, d2) from every patch of a grid (first index) to every other (second)."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(-1, 2).float()
    delta = places[None] - places[:, None]
    return torch.cat([delta.square().sum(2, keepdim=True), delta], dim=2)


class ConvolutionalAttention(nn.Module):
    """Multi-head attention by content and by relative place, which starts close to a convolution and can be one.

    Args:
        width: Of the tokens, a multiple of `heads`.
        grid: Rows and columns of patches.
        heads: A square number.
        others: Tokens before those of the patches, which have no place.
        strictness: s at the start; the larger, the more a head looks at one patch alone.

    Source: as in the module's docstring.

    Example:
        >>> ConvolutionalAttention(32, (4, 4))(torch.rand(2, 18, 32)).shape
        torch.Size([2, 18, 32])
    """

    places: Tensor

    def __init__(
        self, width: int, grid: tuple[int, int], heads: int = HEADS, others: int = 2, strictness: float = 1.0
    ) -> None:
        super().__init__()
        self.heads, self.others = heads, others
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        offsets = kernel_offsets(heads)
        self.direction = nn.Parameter(-strictness * torch.cat([torch.ones(heads, 1), -2 * offsets], dim=1))
        self.register_buffer("places", relative_places(*grid), persistent=False)

    def weights(self, queries: Tensor, keys: Tensor) -> Float[Tensor, "batch heads tokens tokens"]:
        """How much each token (third index) takes from each other (fourth)."""
        by_place = torch.einsum("h r, i j r -> h i j", self.direction, self.places)
        by_place = functional.pad(by_place, (self.others, 0, self.others, 0))
        by_content = queries @ keys.transpose(2, 3) * self.scale
        return (by_content + by_place).softmax(3)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], **_: Any
    ) -> Float[Tensor, "batch tokens width"]:
        """The attended tokens; the masks that a block of timm's may pass on are None there."""
        q, k, v = rearrange(self.qkv(tokens), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        attended: Tensor = self.proj(rearrange(self.weights(q, k) @ v, "b h n c -> b n (h c)"))
        return attended


class EarlyTransformer(nn.Module):
    """timm's VisionTransformer with a distillation token, and convolutional attention in its first blocks.

    Args:
        size: Height and width of the images in pixels, multiples of `patch`.
        patch: Side of a patch in pixels.
        channels: Of the images.
        width: Of the tokens.
        depth: Number of blocks.
        early: How many of the first ones have convolutional attention.
    """

    def __init__(
        self, size: tuple[int, int], patch: int, channels: int, width: int, depth: int, early: int
    ) -> None:
        super().__init__()
        network = VisionTransformer(
            img_size=size,
            patch_size=patch,
            in_chans=channels,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=depth,
            num_heads=HEADS,
            reg_tokens=1,
        )
        grid = size[0] // patch, size[1] // patch
        for block in list(network.blocks)[:early]:
            block.attn = ConvolutionalAttention(width, grid)
        self.network: Any = network
        self.size = size
        self.thirds = [math.ceil(depth * part / 3) for part in (1, 2, 3)]
        self.widths, self.strides = [width] * 3, [patch] * 3

    def forward(
        self, image: Float[Tensor, "batch channels height width"], blocks: Sequence[int]
    ) -> tuple[Float[Tensor, "batch tokens features"], list[Float[Tensor, "batch features rows columns"]]]:
        """The normalised tokens of images in [0, 1], and the feature maps after some of the blocks.

        Class and distillation token come first. Images of another size are resized.
        """
        if tuple(image.shape[-2:]) != self.size:
            image = functional.interpolate(image, self.size, mode="bilinear", antialias=True)
        wanted = sorted({count - 1 for count in blocks})
        tokens, maps = self.network.forward_intermediates(normalised(image), indices=wanted)
        return tokens, [maps[wanted.index(count - 1)] for count in blocks]


class TwoTokenClassifier(nn.Module):
    """A transformer with a linear layer on its class token and one on its distillation token.

    Args:
        backbone: The transformer.
        classes: Number of classes.
    """

    def __init__(self, backbone: EarlyTransformer, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.widths[-1], classes)
        self.distilled = nn.Linear(backbone.widths[-1], classes)


class Aligner(nn.Module):
    """Brings a transformer's early feature map to the form of a convolutional network's.

    Args:
        width: Channels of the transformer's map.
        channels: Of the other.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(1, width),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.GELU(),
            nn.Conv2d(width, channels, 1),
        )

    def forward(
        self, features: Float[Tensor, "batch width rows columns"], size: tuple[int, int]
    ) -> Float[Tensor, "batch channels height breadth"]:
        """The map with as many rows and columns as `size` says."""
        aligned: Tensor = self.layers(
            functional.interpolate(features, size, mode="bilinear", align_corners=False)
        )
        return aligned


@dataclass(frozen=True)
class EarlyAnswer(Answer):
    """What the student says of a batch.

    Args:
        early: The feature map behind its early blocks.
        labelled: The class token's logits.
        distilled: The distillation token's.
    """

    early: Tensor
    labelled: Tensor
    distilled: Tensor


def hard_distillation(
    labelled: Float[Tensor, "batch classes"],
    distilled: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    label: Int[Tensor, " batch"],
    alpha: float = 0.5,
) -> Float[Tensor, ""]:
    """alpha CE(class token, label) + (1 - alpha) CE(distillation token, the teacher's most probable class).

    Args:
        labelled: Logits of the class token.
        distilled: Logits of the distillation token.
        teacher: Logits of the teacher.
        label: The true class, or -1 where it is not known; such images count in the second term only.
        alpha: Share of the labels, 0 to 1.

    Source: Touvron et al., arXiv:2012.12877, equation 3, where alpha is a half.
    """
    told = functional.cross_entropy(distilled, teacher.argmax(1))
    return alpha * labelled_cross_entropy(labelled, label) + (1 - alpha) * told


def first_stage_loss(
    student: EarlyAnswer,
    teacher: Answer,
    label: Int[Tensor, " batch"],
    aligner: Aligner | None,
    alpha: float = 0.5,
    beta: float = 1.0,
) -> Float[Tensor, ""]:
    """Hard distillation plus beta times the mean squared error of the aligned early features.

    Args:
        student: Its answer.
        teacher: Its answer; the first of its levels is its early feature map.
        label: The true class, or -1 where it is not known.
        aligner: Between the two maps; None leaves the last term out.
        alpha: Share of the labels against the teacher's answers.
        beta: Weight of the early features.
    """
    answers = hard_distillation(student.labelled, student.distilled, teacher.logits, label, alpha)
    if aligner is None:
        return answers
    target = teacher.levels[0]
    rows, columns = target.shape[-2:]
    return answers + beta * functional.mse_loss(aligner(student.early, (rows, columns)), target)


class DearKD(Distiller):
    """A small vision transformer that learns from a convolutional teacher's early layers first, then by itself.

    Args:
        alpha: Share of the labels in the first stage, 0 to 1; the teacher's answers have the rest.
        beta: Weight of the early features; with 0 only the teacher's answers are distilled.
        first_stage: Share of the steps in which the teacher is heard, 0 to 1.
        early_blocks: How many of the first blocks have convolutional attention; the features behind the last of them
            are aligned. With 0 it is a plain transformer, and beta must be 0.
        patch: Side of a patch in pixels; the sides of images are multiples of it.
        embed_dim: Width of the tokens, a multiple of 4.
        depth: Number of blocks.
        teacher: The run folder of a fitted method of this shelf, or the name of a backbone, which is fine-tuned on the
            training images that have a label.
        teacher_steps: How many steps of training that takes; None for twice as long as the student learns.
        learning_rate: Of AdamW, after a rise over the first tenth of training and before it falls to 0 as a cosine.
        augmentation: How training images are changed: "shift" moves them by up to an eighth, "flip" also mirrors them,
            "none" leaves them. Teacher and student see the same.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    network: Any

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 1.0,
        first_stage: float = 0.8,
        early_blocks: int = 2,
        patch: int = 4,
        embed_dim: int = 64,
        depth: int = 4,
        teacher: str = "pinakes/tiny_conv",
        teacher_steps: int | None = None,
        learning_rate: float = 1e-3,
        augmentation: Augmentation = "shift",
    ) -> None:
        super().__init__(
            teacher=teacher,
            teacher_steps=teacher_steps,
            learning_rate=learning_rate,
            augmentation=augmentation,
        )
        for name, value in (("alpha", alpha), ("first_stage", first_stage)):
            if not 0 <= value <= 1:
                raise UserError(f"{name}: expected a share from 0 to 1, got {value}")
        if beta < 0:
            raise UserError(f"beta: expected 0 or more, got {beta}")
        for name, value in (("patch", patch), ("depth", depth)):
            if value < 1:
                raise UserError(f"{name}: expected a whole number of 1 or more, got {value}")
        if embed_dim < HEADS or embed_dim % HEADS:
            raise UserError(f"embed_dim: expected a multiple of {HEADS}, got {embed_dim}")
        if not 0 <= early_blocks <= depth:
            raise UserError(f"early_blocks: expected 0 to {depth}, the depth, got {early_blocks}")
        if beta and not early_blocks:
            raise UserError(
                "early_blocks: with 0 there are no early features to align; set beta to 0 as well"
            )
        self.alpha, self.beta, self.first_stage = alpha, beta, first_stage
        self.early_blocks, self.patch, self.embed_dim, self.depth = early_blocks, patch, embed_dim, depth

    def new_network(self, info: DataInfo) -> Any:
        """The transformer, not yet trained.

        Raises:
            UserError: If images cannot be cut into patches.
        """
        height, width = info.size
        if height % self.patch or width % self.patch:
            raise UserError(
                f"patch: images of {height}x{width} pixels cannot be cut into patches of {self.patch}; give another "
                "patch or size"
            )
        backbone = EarlyTransformer(
            (height, width), self.patch, info.channels, self.embed_dim, self.depth, self.early_blocks
        )
        return TwoTokenClassifier(backbone, len(info.classes))

    def answers(self, image: Float[Tensor, "batch channels height width"]) -> EarlyAnswer:
        """Feature levels, and the logits of both tokens with their mean."""
        backbone = self.network.backbone
        tokens, (early, *levels) = backbone(image, [max(1, self.early_blocks), *backbone.thirds])
        labelled, distilled = self.network.head(tokens[:, 0]), self.network.distilled(tokens[:, 1])
        return EarlyAnswer(levels, (labelled + distilled) / 2, early, labelled, distilled)

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module | None:
        """The aligner."""
        return Aligner(student[0], teacher[0]) if self.beta else None

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """What is minimised in the first stage."""
        assert isinstance(student, EarlyAnswer)
        assert self.helping is None or isinstance(self.helping, Aligner)
        return first_stage_loss(student, teacher, label, self.helping, self.alpha, self.beta)

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of the first stage, or, in the second and outside of a fit, the cross-entropy of the labels."""
        if self.done < self.first_stage:
            return super().training_step(batch, batch_idx)
        return super(Distiller, self).training_step(batch, batch_idx)

    def on_fit_start(self) -> None:
        """Makes sure that the length of training is known, as the first stage is a share of it.

        Raises:
            UserError: If it is not.
        """
        if self.first_stage:
            self.needs_a_length("first_stage")


def _hard_deit() -> DearKD:
    """The same transformer without what is new: plain attention, distilled from the teacher's answers throughout."""
    return DearKD(early_blocks=0, beta=0.0, first_stage=1.0)


@claim(
    text="With few images, a transformer that learns from a convolutional teacher's early layers and then by itself is "
    "more accurate than one distilled from its answers throughout.",
    where="abstract and the experiments on parts of ImageNet",
    higher_is_better=True,
)
def dearkd_beats_hard_distillation_with_few_images(lab: Lab) -> Trial:
    """A few hundred made scenes of single objects; the baseline is DeiT's hard distillation with a token of its own."""
    return lab.duel(
        ours=DearKD, baseline=_hard_deit, data=CLAIM_DATA, metric="accuracy", steps=CLAIM_STEPS, batch_size=32
    )


@claim(
    text="Leaving the transformer to itself at the end is better than distilling throughout.",
    where="abstract",
    higher_is_better=True,
)
def a_second_stage_without_the_teacher_helps(lab: Lab) -> Trial:
    """As above, the same transformer on both sides, of which the baseline hears the teacher to the end."""
    return lab.duel(
        ours=DearKD,
        baseline=lambda: DearKD(first_stage=1.0),
        data=CLAIM_DATA,
        metric="accuracy",
        steps=CLAIM_STEPS,
        batch_size=32,
    )
