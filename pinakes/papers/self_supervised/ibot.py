r"""Zhou et al., iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022, arXiv:2111.07832.

Masked language models foretell hidden words, which are given. What the words of an image are is not given. Here the
moving average of the network itself says it: to the teacher, who sees all of a view, each patch belongs to some of many
prototypes, and the student is to say of hidden patches to which. Besides it says of views what the teacher says of
other views, as in DINO, by the same head, so that what patches are called has to do with what images are.

What the code follows, in `pinakes.nn.self_distillation` unless said otherwise:

- Section 3.1, `patch_cross_entropy`: L_MIM = -sum over hidden patches i of P_t(u_i) log P_s(u^_i), for both
  large views.
- Section 3.1, `view_cross_entropy`: L_[CLS], where the student sees the large views with patches hidden.
- Section 3.1, the shared head: one head for class token and patches; centres and temperatures of their own.
- Section 3.2, "Implementation": half of the large views have hidden patches, a tenth to a half of them
  (`hidden_shares`), and both losses are added up without weights.
- Of github.com/bytedance/ibot: blocks of patches are hidden, the patches' centre is that of all of the teacher's
  patches, their temperature may rise, and what is averaged over what.

Differences from the paper: those of `dino`, on which this stands; the temperature of patches is 0.02, as that of views
is, and not 0.04 rising to 0.07.
"""

from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.self_distillation import (
    Centre,
    PrototypeHead,
    blocks_of_patches,
    patch_cross_entropy,
    random_patches,
)
from pinakes.papers.self_supervised.dino import DINO, FINE, check_temperatures
from pinakes.papers.self_supervised.views import SHORT_PLAN

EQUATIONS = (
    (
        "Section 3.1",
        r"L_{\mathrm{MIM}} = -\sum_{i=1}^{N} m_i \, P_{\theta'}^{\mathrm{patch}}(u_i)^\top "
        r"\log P_\theta^{\mathrm{patch}}(\hat u_i)",
    ),
    (
        "Section 3.1",
        r"L_{[\mathrm{CLS}]} = -P_{\theta'}^{[\mathrm{CLS}]}(v)^\top "
        r"\log P_\theta^{[\mathrm{CLS}]}(\hat u)",
    ),
    ("Section 3.1", r"L = L_{\mathrm{MIM}} + L_{[\mathrm{CLS}]}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

MaskShape = Literal["block", "random"]


def hidden_shares(
    images: int, ratio: tuple[float, float], device: torch.device | str = "cpu"
) -> Float[Tensor, " images"]:
    """The share of each image's patches to hide: none with a probability of a half, else drawn evenly.

    Args:
        images: How many images.
        ratio: The smallest and the largest share, 0 to 1.
        device: Of the result.

    Returns:
        A share for each image.
    """
    draws = torch.rand(images, 2, device=device)
    return torch.where(draws[:, 0] < 0.5, 0.0, ratio[0] + (ratio[1] - ratio[0]) * draws[:, 1])


class IBOT(DINO):
    """A vision transformer that learns to say of hidden patches, and of other views, what its moving average says.

    Args:
        patch_weight: Of the loss of hidden patches beside that of views, above 0.
        mask_ratio: The smallest and the largest share of its patches that a view has hidden, if it has any, between 0
            and 1.
        mask_shape: "block" hides rectangles, "random" scattered patches.
        teacher_patch_temp: What the teacher's logits of patches are divided by in the end, above 0.
        warmup_teacher_patch_temp: What they are divided by at first, above 0.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        patch_weight: float = 1.0,
        mask_ratio: tuple[float, float] = (0.1, 0.5),
        mask_shape: MaskShape = "block",
        teacher_patch_temp: float = 0.02,
        warmup_teacher_patch_temp: float = 0.02,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if not patch_weight > 0:
            raise UserError(f"patch_weight: expected a number above 0, got {patch_weight}")
        if len(mask_ratio) != 2 or not 0 < mask_ratio[0] <= mask_ratio[1] < 1:
            raise UserError(f"mask_ratio: expected two shares between 0 and 1, got {mask_ratio}")
        if mask_shape not in get_args(MaskShape):
            raise UserError(
                f"mask_shape: '{mask_shape}' is unknown{suggest(mask_shape, get_args(MaskShape))}"
            )
        check_temperatures(
            teacher_patch_temp=teacher_patch_temp, warmup_teacher_patch_temp=warmup_teacher_patch_temp
        )
        self.patch_weight, self.mask_shape = patch_weight, mask_shape
        self.mask_ratio = mask_ratio[0], mask_ratio[1]
        self.teacher_patch_temp = teacher_patch_temp
        self.warmup_teacher_patch_temp = warmup_teacher_patch_temp

    def build(self, info: DataInfo) -> None:
        """Makes the mask token and the patches' centre, too."""
        super().build(info)
        self.mask_token = nn.Parameter(torch.zeros(self.embed_dim))
        self.patch_centre = Centre(self.out_dim, self.center_momentum)

    def patch_heads(self) -> tuple[PrototypeHead, MomentumCopy]:
        """The head of patches and its copy, which are those of views."""
        return self.head, self.teacher_head

    def shares(self, images: int) -> Float[Tensor, " images"]:
        """The share of the patches of each large view to hide."""
        return hidden_shares(images, self.mask_ratio, self.device)

    def hidden(self, counts: Int[Tensor, " images"], grid: tuple[int, int]) -> Bool[Tensor, "images patches"]:
        """Which patches are hidden, about so many of each image."""
        if self.mask_shape == "block":
            return blocks_of_patches(counts, grid)
        return random_patches(counts, grid[0] * grid[1])

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the student is from what the teacher says of other views and of hidden patches."""
        large, *small = self.views(image)
        grid = large.shape[2] // self.patch, large.shape[3] // self.patch
        counts = (self.shares(len(large)) * grid[0] * grid[1]).long()
        hidden = self.hidden(counts, grid)
        seen, known = self.encoder(large, hidden, self.mask_token), self.teacher(large)
        tokens = torch.cat([seen[:, 0], *(self.encoder(each)[:, 0] for each in small)])
        of_patches = self.patch_loss(seen[:, 1:], known[:, 1:], hidden)
        return self.view_loss(tokens, known[:, 0]) + self.patch_weight * of_patches

    def patch_loss(
        self,
        patches: Float[Tensor, "images patches _embed_dim"],
        known: Float[Tensor, "images patches _embed_dim"],
        hidden: Bool[Tensor, "images patches"],
    ) -> Float[Tensor, ""]:
        """The same of hidden patches alone: the student's tokens of all patches, and the teacher's."""
        head, _ = self.patch_heads()
        return patch_cross_entropy(
            head(patches[hidden]), self.patch_targets(known, hidden), hidden, self.student_temp
        )

    def patch_targets(
        self,
        known: Float[Tensor, "images patches _embed_dim"],
        hidden: Bool[Tensor, "images patches"],
    ) -> Float[Tensor, "hidden_patches _prototypes"]:
        """The teacher's distributions of hidden patches."""
        _, teacher_head = self.patch_heads()
        temperature = self.warmed(self.teacher_patch_temp, self.warmup_teacher_patch_temp)
        return self.centred(self.patch_centre, teacher_head(known), temperature)[hidden]


SEGMENTED = "scenes:segmentation?size=24&n=2000&things=1"
"""Made scenes of one thing or two. Of more, each is so small that a classifier of patches names the ground and nothing
else, whatever they are described by."""


@claim(
    text="From patches that were also to be foretold while hidden, a linear classifier reads more of the classes of "
    "pixels than after DINO alone.",
    where="section on downstream tasks: semantic segmentation with a linear layer, beside DINO",
    higher_is_better=True,
)
def foretelling_hidden_patches_helps_segmentation(lab: Lab) -> Trial:
    """Made scenes of one thing or two; the same transformer, head and views on both sides."""
    return lab.duel(
        ours=lambda: IBOT(**FINE),
        baseline=lambda: DINO(**FINE),
        data=SEGMENTED,
        metric="linear_miou",
        **SHORT_PLAN,
    )
