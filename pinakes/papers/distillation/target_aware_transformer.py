r"""Lin et al., Knowledge Distillation via the Target-aware Transformer, CVPR 2022, arXiv:2205.10793.

Where a teacher's feature map holds the meaning of a thing, a student of another architecture may hold it elsewhere. So
the student's features are not compared with the teacher's at the same place: each of the teacher's positions looks, by
attention, at all positions of the student, and what it gathers there should be the teacher's feature. Attention over
all positions of a large map is costly; there the maps are cut into patches, of which groups are matched together, and
for the whole picture both maps are pooled to few anchor points, which are matched likewise.

What the code follows, with the teacher's and student's maps f^t and f^s as rows of positions, N_t and N_s of them:

- One-to-all matching, `reconfigured`: f_i^s' = sum_j W_ij phi(f_j^s), W_i = softmax_j <theta(f_i^t), gamma(f_j^s)>.
- one_to_all_loss: L_TaT = ||f^s' - f^t||^2, the mean over all entries, as in the authors' code.
- The whole loss: L = alpha CE + beta T^2 KL + epsilon L_TaT.
- Patch groups, `patch_groups`: n x n patches, of which every p in succession are laid on each other along the channels
  and matched as one map.
- Anchor points, `anchor_points`: the average of each of a x a areas.
- With both, L_TaT is the loss of the patch groups plus zeta times that of the anchor points.

theta, gamma and phi are 3x3 convolutions with batch normalisation; they are dropped after training.

Differences from the paper: the two maps may differ in size, since every position of the one may look at any number of
the other. Differences from the authors' code for ImageNet (github.com/sihaoevery/TaT): there the student's positions
attend to the teacher's, and the weights are then used on the student's own; theta is the identity; and the student
starts from trained weights. alpha, beta, epsilon and the temperature of 1 are those of that code, zeta that of the code
for Pascal VOC (github.com/sihaoevery/TaT-seg), where 16 x 16 patches in 64 groups and 32 x 32 anchors serve the large
maps of segmentation; the small maps here are matched whole unless the options say otherwise.
"""

from collections.abc import Sequence
from typing import Any

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.distillation.base import (
    CLAIM_DATA,
    CLAIM_PLAN,
    Distiller,
    distillation_divergence,
    in_smaller_size,
)
from pinakes.papers.distillation.classifier import LAYERS, Answer, labelled_cross_entropy
from pinakes.papers.distillation.kd import KD

EQUATIONS = (
    (
        "One-to-all matching",
        r"f_i^{s'} = \sum_j W_{ij} \, \phi(f_j^s), \quad "
        r"W_i = \mathrm{softmax}_j \langle \theta(f_i^t), \gamma(f_j^s) \rangle",
    ),
    ("one_to_all_loss", r"L_{TaT} = \| f^{s'} - f^t \|^2"),
    ("The whole loss", r"L = \alpha \, \mathrm{CE} + \beta \, T^2 \, \mathrm{KL} + \epsilon \, L_{TaT}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""


def reconfigured(
    query: Float[Tensor, "batch channels rows columns"],
    key: Float[Tensor, "batch channels _rows _columns"],
    value: Float[Tensor, "batch width _rows _columns"],
) -> Float[Tensor, "batch width rows columns"]:
    """What each position of the teacher gathers from all positions of the student.

    Args:
        query: theta(f^t), which sets the similarities with `key`.
        key: gamma(f^s).
        value: phi(f^s), on the same map as `key`, which may be of another size than that of `query`.

    Source: one-to-all matching.

    Example:
        >>> import torch
        >>> constant = torch.ones(1, 2, 3, 3)
        >>> gathered = reconfigured(torch.rand(1, 4, 2, 2), torch.rand(1, 4, 3, 3), constant)
        >>> torch.allclose(gathered, torch.ones(1, 2, 2, 2))
        True
    """
    size = query.shape[-2:]
    theta, gamma, phi = (each.flatten(2).mT for each in (query, key, value))
    gathered = functional.scaled_dot_product_attention(theta, gamma, phi, scale=1.0)
    return gathered.mT.unflatten(2, size)


def one_to_all_loss(
    query: Float[Tensor, "batch channels rows columns"],
    key: Float[Tensor, "batch channels _rows _columns"],
    value: Float[Tensor, "batch width _rows _columns"],
    teacher: Float[Tensor, "batch width rows columns"],
) -> Float[Tensor, ""]:
    """The mean squared distance of what the teacher's positions gather from the teacher's own features.

    Args:
        query: theta(f^t).
        key: gamma(f^s).
        value: phi(f^s).
        teacher: f^t.

    Source: one_to_all_loss.
    """
    return functional.mse_loss(reconfigured(query, key, value), teacher)


def patch_groups(
    features: Float[Tensor, "batch channels rows columns"], patches: int, groups: int
) -> Float[Tensor, "_batch _channels _rows _columns"]:
    """Cuts maps into patches and lays those of a group on each other.

    Args:
        features: Maps. Rows and columns that are left over on the right and below are left out.
        patches: n, on each side of the map.
        groups: How many groups the n^2 patches form, in the order of reading; a divisor of n^2.

    Returns:
        (batch * groups, n^2 / groups * channels, rows // n, columns // n), the groups of an image in succession.

    Raises:
        UserError: If the patches do not fit the map, or the groups not the patches.

    Source: hierarchical distillation, patch groups.

    Example:
        >>> import torch
        >>> patch_groups(torch.rand(2, 5, 8, 8), patches=4, groups=2).shape
        torch.Size([4, 40, 2, 2])
    """
    rows, columns = features.shape[-2:]
    if not 1 <= patches <= min(rows, columns):
        raise UserError(
            f"patches: expected 1 to {min(rows, columns)} on each side of a map of {rows}x{columns}, got {patches}"
        )
    if groups < 1 or patches**2 % groups:
        raise UserError(f"groups: expected a divisor of {patches**2}, the number of patches, got {groups}")
    height, width = rows // patches, columns // patches
    return rearrange(
        features[..., : patches * height, : patches * width],
        "batch channels (n h) (m w) -> batch (n m) channels h w",
        n=patches,
        m=patches,
    ).reshape(len(features) * groups, -1, height, width)


def anchor_points(
    features: Float[Tensor, "batch channels rows columns"], anchors: int
) -> Float[Tensor, "batch channels anchors anchors"]:
    """The average of each of `anchors` x `anchors` areas that cover the map.

    Args:
        features: Maps.
        anchors: On each side.

    Raises:
        UserError: If the map has fewer positions than that on a side.

    Source: hierarchical distillation, anchor points.
    """
    rows, columns = features.shape[-2:]
    if not 1 <= anchors <= min(rows, columns):
        raise UserError(
            f"anchors: expected 1 to {min(rows, columns)} on each side of a map of {rows}x{columns}, got {anchors}"
        )
    return functional.adaptive_avg_pool2d(features, anchors)


class Embedding(nn.Sequential):
    """A 3x3 convolution with batch normalisation: theta, gamma or phi.

    Args:
        channels: Of the features.
        width: Of the embedding.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))


class TargetAwareMatching(nn.Module):
    """Embeds both maps, and matches them patch group by patch group and between anchor points.

    Args:
        student: Channels of the student's map.
        teacher: Channels of the teacher's map.
        patches: On each side of the maps; 1 matches whole maps.
        groups: Of the patches.
        anchors: On each side of the maps; 0 for none.
        zeta: Weight of the anchor points.
    """

    def __init__(
        self,
        student: int,
        teacher: int,
        patches: int = 1,
        groups: int = 1,
        anchors: int = 0,
        zeta: float = 0.4,
    ) -> None:
        super().__init__()
        self.theta = Embedding(teacher, teacher)
        self.gamma = Embedding(student, teacher)
        self.phi = Embedding(student, teacher)
        self.patches = patches
        self.groups = groups
        self.anchors = anchors
        self.zeta = zeta

    def forward(
        self,
        student: Float[Tensor, "batch student rows columns"],
        teacher: Float[Tensor, "batch teacher _rows _columns"],
    ) -> Float[Tensor, ""]:
        """L_TaT of two maps."""
        maps = self.theta(teacher), self.gamma(student), self.phi(student), teacher
        loss = one_to_all_loss(*(patch_groups(each, self.patches, self.groups) for each in maps))
        if self.anchors:
            loss = loss + self.zeta * one_to_all_loss(*(anchor_points(each, self.anchors) for each in maps))
        return loss


class OneToOneMatching(nn.Module):
    """What one-to-all matching is held against: phi(f^s) and f^t at the same place, on the smaller of the two grids.

    Args:
        student: Channels of the student's map.
        teacher: Channels of the teacher's map.

    Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015 (arXiv:1412.6550), section 2.2.
    """

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.phi = Embedding(student, teacher)

    def forward(
        self,
        student: Float[Tensor, "batch student rows columns"],
        teacher: Float[Tensor, "batch teacher _rows _columns"],
    ) -> Float[Tensor, ""]:
        """The mean squared distance of two maps."""
        return functional.mse_loss(*in_smaller_size(self.phi(student), teacher))


class TargetAwareTransformer(Distiller):
    """A student whose features, wherever they are, give what the teacher's features are at each place.

    Args:
        alpha: Weight of the labels.
        beta: Weight of the divergence from the teacher's logits.
        epsilon: Weight of the matching of features.
        temperature: T of the divergence.
        level: Which feature maps are matched: -1 for the last, to -3.
        patches: On each side of the maps; 1 matches whole maps.
        groups: How many groups the patches form, each matched as one map.
        anchors: Anchor points on each side of the maps; 0 for none.
        zeta: Weight of the anchor points against the patch groups.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        epsilon: float = 0.1,
        temperature: float = 1.0,
        level: int = -1,
        patches: int = 1,
        groups: int = 1,
        anchors: int = 0,
        zeta: float = 0.4,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        for name, value in (("alpha", alpha), ("beta", beta), ("epsilon", epsilon), ("zeta", zeta)):
            if not value >= 0:
                raise UserError(f"{name}: expected 0 or more, got {value}")
        if not temperature > 0:
            raise UserError(f"temperature: expected a number above 0, got {temperature}")
        if level not in LAYERS:
            raise UserError(f"level: expected one of {', '.join(map(str, LAYERS))}, got {level}")
        if patches < 1:
            raise UserError(f"patches: expected 1 or more, got {patches}")
        if groups < 1 or patches**2 % groups:
            raise UserError(
                f"groups: expected a divisor of {patches**2}, the number of patches, got {groups}"
            )
        if anchors < 0:
            raise UserError(f"anchors: expected 0 or more, got {anchors}")
        self.alpha = alpha
        self.beta = beta
        self.epsilon = epsilon
        self.temperature = temperature
        self.level = level
        self.patches = patches
        self.groups = groups
        self.anchors = anchors
        self.zeta = zeta

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """theta, gamma and phi."""
        widths = student[self.level], teacher[self.level]
        return TargetAwareMatching(*widths, self.patches, self.groups, self.anchors, self.zeta)

    def loss(self, student: Answer, teacher: Answer, label: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """The weighted sum of what labels, logits and features say."""
        assert self.helping is not None
        matching = self.helping(student.levels[self.level], teacher.levels[self.level])
        return (
            self.alpha * labelled_cross_entropy(student.logits, label)
            + self.beta * distillation_divergence(student.logits, teacher.logits, self.temperature)
            + self.epsilon * matching
        )


class OneToOne(TargetAwareTransformer):
    """The same loss with features matched place by place; its last four options are idle."""

    def helpers(self, student: Sequence[int], teacher: Sequence[int]) -> nn.Module:
        """phi alone."""
        return OneToOneMatching(student[self.level], teacher[self.level])


@claim(
    text="A student whose features are matched one to all is more accurate than one whose features are matched place "
    "by place.",
    where="abstract, the comparison with FitNet on CIFAR-100 and ImageNet",
    higher_is_better=True,
)
def one_to_all_beats_one_to_one(lab: Lab) -> Trial:
    """Made scenes of single objects; the same layer, cross-entropy and divergence on both sides."""
    return lab.duel(
        ours=TargetAwareTransformer,
        baseline=OneToOne,
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )


@claim(
    text="A student taught by the target-aware transformer is more accurate than one taught by logits alone.",
    where="the tables for CIFAR-100 and ImageNet",
    higher_is_better=True,
)
def target_aware_beats_kd(lab: Lab) -> Trial:
    """As above; KD with this shelf's temperature and weight, those of the literature for small images."""
    return lab.duel(
        ours=TargetAwareTransformer,
        baseline=KD,
        data=CLAIM_DATA,
        metric="accuracy",
        **CLAIM_PLAN,
    )
