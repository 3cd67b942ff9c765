r"""Chen et al., Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for Human-Centric Visual
Tasks, CVPR 2023, arXiv:2303.17602.

To DINO, all of a person is one thing: features of shirt and shoes of one person are more alike than those of two
shirts. But people stand upright. So the teacher's features of an image's patches are clustered, first into person and
background, then into parts, and the parts are named by their order from top to bottom; the student is to say of each
patch which part it shows, also where the part is covered. How much of this goes into the features and how much of the
looks is left to the user: the network takes a number, lambda, by which its features are scaled and shifted.

What the code follows, with details of github.com/tinyvision/SOLIDER:

- Semantic clustering, `two_means` and `parts_from_top`: two means of the length of features, the longer ones are the
  person's; then as many means as there are parts, named from the top. Images with too little of a person are left out.
- Semantic classification, `part_loss`: the cross-entropy of a head of the form of DINO's, for patches of large views
  and of the same views with one part, drawn at random, painted over.
- Semantic controller, `SemanticController`: x -> softplus(W [lambda, 1 - lambda]) x + U [lambda, 1 - lambda], behind
  three stages of the network; of four stages, what the last would do is not read.
- In training lambda is 0 or 1 for each image; the teacher that clusters has 1. L = L_DINO + lambda L_sm.
- Training starts as DINO alone (`start`), as the authors' quicker way, from its weights, does.

Differences from the paper: those of `dino`, on which this stands: a vision transformer in place of Swin, whose stages
here are quarters of its blocks. Two means in one dimension are found exactly; the means of parts start from patches
that are far from each other. A fifth of the patches is enough for a person, where the authors' close crops are to have
a half. The head of parts is trained; in the authors' code the optimiser is not given it.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.lab.fitted_once import fitted_once
from pinakes.nn.gathering import processes, summed
from pinakes.nn.masked_autoencoder import CENTRE
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.self_distillation import PrototypeHead, ViewTransformer
from pinakes.papers.self_supervised.dino import DINO, FINE, ViewLevels
from pinakes.papers.self_supervised.transformer import check_counts
from pinakes.papers.self_supervised.views import SHORT_PLAN
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "Semantic controller",
        r"x \leftarrow \mathrm{softplus}(W [\lambda, 1 - \lambda]) \odot x + U [\lambda, 1 - \lambda]",
    ),
    (
        "Semantic classification",
        r"L_{sm} = -\frac{1}{N} \sum_{i=1}^{N} \log p_{y_i}(u_i), \quad "
        r"y_i \in \{0 \text{ (background)}, 1, \dots, K \text{ (from the top)}\}",
    ),
    ("In training", r"L = L_{\mathrm{DINO}} + \lambda L_{sm}, \quad \lambda \in \{0, 1\}"),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

ROUNDS = 10
"""How often means of parts are moved."""


def two_means(values: Float[Tensor, "batch values"]) -> Bool[Tensor, "batch values"]:
    """Whether a number belongs to the upper of the two groups that lie closest about their means, row by row.

    Args:
        values: Numbers; where all of a row are equal, none is in the upper group.

    Example:
        >>> two_means(torch.tensor([[1.0, 9.0, 2.0, 8.0]]))
        tensor([[False,  True, False,  True]])
    """
    ordered = values.double().sort(1).values
    count = torch.arange(1, values.shape[1], device=values.device)
    below = ordered.cumsum(1)[:, :-1]
    above = ordered.sum(1, keepdim=True) - below
    # the squares within groups are least where this is greatest
    between = below.square() / count + above.square() / (values.shape[1] - count)
    least = ordered.gather(1, between.argmax(1, keepdim=True))
    return values.double() > least


def parts_from_top(
    features: Float[Tensor, "batch patches width"],
    person: Bool[Tensor, "batch patches"],
    columns: int,
    parts: int = 3,
) -> Int[Tensor, "batch patches"]:
    """The number of the part that each patch shows: from 1 at the top to `parts`, and 0 where there is no person.

    Args:
        features: Of patches, row by row.
        person: Which patches show the person.
        columns: Of the grid of patches.
        parts: How many parts there are.
    """
    features = features.detach()
    means = far_apart(features, person, parts)
    for _ in range(ROUNDS):
        found = torch.cdist(features, means).argmin(2)
        members = functional.one_hot(found, parts).to(features.dtype) * person[..., None]
        count = members.sum(1)[..., None]
        means = torch.where(count > 0, members.transpose(1, 2) @ features / count.clamp(min=1), means)
    rows = torch.arange(features.shape[1], device=features.device) // columns
    members = functional.one_hot(found, parts).to(features.dtype) * person[..., None]
    height = (members * rows[:, None]).sum(1) / members.sum(1)
    # parts without a patch have no height and come last
    names = height.nan_to_num(nan=torch.inf).argsort(1).argsort(1)
    return (names.gather(1, found) + 1) * person


def far_apart(
    features: Float[Tensor, "batch patches width"], person: Bool[Tensor, "batch patches"], count: int
) -> Float[Tensor, "batch count width"]:
    """Patches to start means from: the one farthest from the middle, then the one farthest from all taken, and so on.

    Args:
        features: Of patches.
        person: From which patches to take.
        count: How many to take.
    """
    share = person.to(features.dtype)[..., None]
    middle = (features * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1)
    distance = torch.cdist(features, middle)[..., 0]
    taken: list[Tensor] = []
    for _ in range(count):
        place = distance.masked_fill(~person, -1.0).argmax(1)
        taken.append(features[torch.arange(len(features), device=features.device), place][:, None])
        distance = torch.cdist(features, torch.cat(taken, dim=1)).amin(2)
    return torch.cat(taken, dim=1)


def part_loss(
    logits: Float[Tensor, "batch patches classes"],
    labels: Int[Tensor, "batch patches"],
    weight: Float[Tensor, " batch"],
    usable: Bool[Tensor, " batch"],
) -> Float[Tensor, ""]:
    """The cross-entropy of patches and their parts, weighted and averaged over the images that can be used.

    Args:
        logits: What the network says of background and parts.
        labels: As `parts_from_top` gives them.
        weight: lambda of each image.
        usable: Which images count; of all processes, whose average is that of all their images.
    """
    each = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
    count = summed(usable.sum().to(each.dtype)) / processes()
    return (each * weight * usable).sum() / count.clamp(min=1)


class SemanticController(nn.Module):
    """Scales and shifts the channels of tokens by what a number says.

    Args:
        width: Of the tokens.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(2, width), nn.Linear(2, width)
        for layer in (self.scale, self.shift):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(
        self, tokens: Float[Tensor, "batch tokens width"], semantic: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Tokens of images, each with its lambda, 0 to 1."""
        asked = torch.stack([semantic, 1 - semantic], dim=1)
        return tokens * functional.softplus(self.scale(asked))[:, None] + self.shift(asked)[:, None]


class ControlledTransformer(ViewTransformer):
    """A vision transformer with controllers behind the first three quarters of its blocks.

    Args:
        size: As `ViewTransformer` takes it, like all others but the last.
        patch: As above.
        channels: As above.
        width: As above.
        depth: As above.
        semantic: lambda where none is given.
    """

    def __init__(
        self,
        size: tuple[int, int],
        patch: int = 4,
        channels: int = 3,
        width: int = 96,
        depth: int = 6,
        semantic: float = 1.0,
    ) -> None:
        super().__init__(size, patch, channels, width, depth)
        self.semantic = semantic
        places = {math.ceil(depth * part / 4) for part in (1, 2, 3)}
        self.controllers = nn.ModuleDict({str(place): SemanticController(width) for place in sorted(places)})

    def after(
        self,
        image: Float[Tensor, "batch channels height width"],
        blocks: list[int],
        semantic: Float[Tensor, " batch"] | None = None,
    ) -> list[Float[Tensor, "batch tokens _width"]]:
        """The tokens after some of the blocks, each from 1 to the depth, normalised as the last ones are."""
        if semantic is None:
            semantic = image.new_full((len(image),), self.semantic)
        tokens = self.embedded(image)
        found = {}
        for count, block in enumerate(self.network.blocks[: max(blocks)], start=1):
            tokens = block(tokens)
            if str(count) in self.controllers:
                tokens = self.controllers[str(count)](tokens, semantic)
            if count in blocks:
                found[count] = self.network.norm(tokens)
        return [found[count] for count in blocks]

    def forward(  # type: ignore[override]  # lambda takes the place of hidden patches
        self,
        image: Float[Tensor, "batch channels height width"],
        semantic: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch tokens _width"]:
        """The tokens after the last normalisation, the class token first; `semantic` is lambda of each image."""
        return self.after(image, [self.depth], semantic)[0]


class SOLIDER(DINO):
    """A vision transformer that learns by DINO, and to name parts of people; how much of each is in its features is
    said by a number.

    Args:
        semantic_weight: lambda of the features, 0 to 1: low for what someone looks like, high for the parts of a body.
            It changes nothing in training, and may be set anew on a fitted method.
        parts: Into how many parts a person is divided.
        part_weight: Of the loss of parts, above 0.
        least_person: The smallest share of its patches that shows a person in an image whose parts are learnt, 0 to 1.
        start: The share of training, at its start, that is DINO alone, 0 to 1.
        least_area: The smallest share of an image's area that a large view shows.
        least_local_area: The smallest share of an image's area that a small view shows.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    encoder: ControlledTransformer

    def __init__(
        self,
        semantic_weight: float = 1.0,
        parts: int = 3,
        part_weight: float = 1.0,
        least_person: float = 0.2,
        start: float = 0.3,
        least_area: float = 0.8,
        least_local_area: float = 0.05,
        **shared: Any,
    ) -> None:
        super().__init__(least_area=least_area, least_local_area=least_local_area, **shared)
        for name, value in (
            ("semantic_weight", semantic_weight),
            ("least_person", least_person),
            ("start", start),
        ):
            if not 0 <= value <= 1:
                raise UserError(f"{name}: expected 0 to 1, got {value}")
        check_counts(parts=parts)
        if not part_weight > 0:
            raise UserError(f"part_weight: expected a number above 0, got {part_weight}")
        self.semantic_weight, self.parts, self.part_weight = semantic_weight, parts, part_weight
        self.least_person, self.start = least_person, start

    def build(self, info: DataInfo) -> None:
        """Makes encoder and heads, and what follows them.

        Raises:
            UserError: If images cannot be cut into two patches or more.
        """
        super().build(info)
        self.encoder = ControlledTransformer(
            info.size, self.patch, info.channels, self.embed_dim, self.depth, self.semantic_weight
        )
        self.teacher = MomentumCopy(self.encoder)
        self.part_head = PrototypeHead(self.embed_dim, self.hidden_dim, self.bottleneck_dim, self.parts + 1)

    def encode(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """The class token of the copy, and the patches, with as much of the semantics as `semantic_weight` says."""
        network: Any = self.teacher.network
        network.semantic = self.semantic_weight
        return super().encode(image)

    def as_backbone(self, layers: Any) -> ViewLevels:
        """The copy, with a level behind each of its blocks; negative numbers count from the last.

        Raises:
            UserError: If there is no such block.
        """
        network: Any = self.teacher.network
        network.semantic = self.semantic_weight
        return ViewLevels(network, layers)

    def named(
        self, features: Float[Tensor, "batch patches width"], columns: int
    ) -> tuple[Int[Tensor, "batch patches"], Bool[Tensor, " batch"]]:
        """The part of each patch, and whether an image shows enough of a person.

        Args:
            features: Of patches, row by row.
            columns: Of the grid of patches.
        """
        person = two_means(features.norm(dim=2))
        usable = person.float().mean(1) >= self.least_person
        return parts_from_top(features, person, columns, self.parts), usable

    def loss(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
        """How far the student is from what the teacher says of other views, and from the parts that it has found."""
        large, *small = self.views(image)
        semantic = (torch.rand(len(image), device=image.device) < 0.5).to(image.dtype)
        of_large = semantic.repeat(2)
        seen = self.encoder(large, of_large)
        known = self.teacher(large, of_large)[:, 0]
        others = [self.encoder(each, semantic.repeat(len(each) // len(image)))[:, 0] for each in small]
        of_views = self.view_loss(torch.cat([seen[:, 0], *others]), known)
        if self.done < self.start:
            return of_views
        rows, columns = (side // self.patch for side in large.shape[-2:])
        patches = self.teacher(large, torch.ones_like(of_large))[:, 1:]
        labels, usable = self.named(patches, columns)
        covered = (labels == torch.randint(1, self.parts + 1, (), device=image.device)).view(
            -1, 1, rows, columns
        )
        covered = covered.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)
        guessed = self.encoder(torch.where(covered, CENTRE, large), of_large)
        logits = self.part_head(torch.cat([guessed[:, 1:], seen[:, 1:]]))
        of_parts = part_loss(
            logits, *(each.repeat(2, *[1] * (each.ndim - 1)) for each in (labels, of_large, usable))
        )
        return of_views + self.part_weight * of_parts


PEOPLE = "scenes:people?size=48x24&n=2000"
"""Made people in different clothes and poses, with the parts of their bodies."""


@claim(
    text="From patches of an encoder that was also to name parts, a linear classifier reads more of the parts of "
    "bodies than after DINO alone.",
    where="section 4, the ablation on human parsing; figure 1",
    higher_is_better=True,
)
def naming_parts_teaches_parts(lab: Lab) -> Trial:
    """Made people; the same transformer, views and steps on both sides."""
    return lab.duel(
        ours=lambda: SOLIDER(**FINE),
        baseline=lambda: DINO(least_area=0.8, least_local_area=0.05, **FINE),
        data=PEOPLE,
        metric="linear_miou",
        **SHORT_PLAN,
    )


def _parts_told(lab: Lab, seed: int, semantic_weight: float) -> float:
    """How well parts are told by features of a network that is trained once for each seed."""
    data = load_data(PEOPLE, task=SOLIDER.task_name, seed=seed)
    steps = {"steps": 2} if lab.quick else {}
    plan = TrainingPlan(**SHORT_PLAN | steps | {"seed": seed, "device": str(lab.device), "hold_out": 0.0})
    method = fitted_once(SOLIDER(**FINE), data, plan)
    method.semantic_weight = semantic_weight
    return method.evaluate(data)["linear_miou"]


@claim(
    text="The same network tells more of the parts of bodies with a lambda of 1 than with a lambda of 0.",
    where="section 3, the semantic controller, and section 4, its ablation",
    higher_is_better=True,
)
def the_controller_controls(lab: Lab) -> Trial:
    """As above; both sides are one trained network and differ in the lambda of the features that are judged."""
    return lab.measure(
        ours=lambda seed: _parts_told(lab, seed, 1.0),
        baseline=lambda seed: _parts_told(lab, seed, 0.0),
        metric="linear mIoU",
    )
