r"""Oquab et al., DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024, arXiv:2304.07193.

Features that serve everywhere come from many images, well chosen, and from a recipe that stays stable with them. The
images are chosen by likeness alone: copies are taken out of a large pool, and what is nearest to images that people
have chosen is kept. The recipe is that of iBOT, with heads of their own for class token and patches, with targets that
give every prototype the same share of a batch, and with a term that draws the features of a batch apart. In the end the
images are shown larger for a short while.

What the code follows, in `pinakes.nn.self_distillation` unless said otherwise:

- Section 4, "Image-level objective" and "Patch-level objective": `view_cross_entropy` and `patch_cross_entropy`.
- Section 4, "Untying head weights between both objectives": two heads.
- Section 4, "Sinkhorn-Knopp centering", `pinakes.nn.assignment`: three iterations in place of the centre.
- Section 4, "KoLeo regularizer", `koleo_loss`: L = -1/n sum of log d_i, with d_i the distance to the nearest other
  feature of the batch, at length 1; of the student's class tokens, for each large view by itself, with weight 0.1.
- Section 4, "Adapting the resolution": the share `tail` of training, at its end, at full size.
- Section 3, "Deduplication" and "Self-supervised image retrieval", and the appendix on data processing: `deduplicated`,
  `without_copies_of`, `retrieved` and `retrieved_from_clusters`, of embeddings of any method.
- Of github.com/facebookresearch/dinov2: half of the large views have hidden patches, with shares spread evenly over
  their range; large and small views show more and less than 0.32 of the area.

Differences from the paper: those of `dino`, on which this stands, the temperatures of 0.02 among them, as targets of
equal shares are as flat as centred ones while logits hardly differ; images are large in the end because they were half
as large before; the nearest features are sought in the batch of all processes. What makes training cheaper but not
other is left out (sharding, packed sequences of views, stochastic depth by leaving samples out), as is the distillation
of smaller networks.
"""

import importlib
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.collections.similarity import nearest_similarity
from pinakes.data import load_data
from pinakes.data.base import DataInfo
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.assignment import sinkhorn_knopp
from pinakes.nn.gathering import processes
from pinakes.nn.momentum import MomentumCopy
from pinakes.nn.probes import nearest
from pinakes.nn.self_distillation import PrototypeHead, koleo_loss
from pinakes.papers.self_supervised.dino import SMALL
from pinakes.papers.self_supervised.ibot import IBOT
from pinakes.papers.self_supervised.views import CLAIM_DATA, SHORT_PLAN

EQUATIONS = (
    ('Section 4, "Image-level objective"', r"L_{\mathrm{DINO}} = -\sum p_t \log p_s"),
    ('"Patch-level objective"', r"L_{\mathrm{iBOT}} = -\sum_i p_{t,i} \log p_{s,i}"),
    (
        'Section 4, "KoLeo regularizer"',
        r"L_{\mathrm{koleo}} = -\frac{1}{n} \sum_{i=1}^{n} \log d_{n,i}, \quad "
        r"d_{n,i} = \min_{j \neq i} \lVert x_i - x_j \rVert",
    ),
)
"""The equations above in LaTeX, for the documentation; a label opens an item of the list."""

ITERATIONS = 3
"""Of Sinkhorn-Knopp."""


# -- the data --------------------------------------------------------------------------------------------------


def deduplicated(embedding: Float[Tensor, "images width"], threshold: float = 0.6) -> Int[Tensor, " kept"]:
    """One image of each group of near-duplicates, the first, and all that have none.

    A group is what pairs connect whose cosine similarity is at least the threshold. All such pairs are found, exactly.

    Args:
        embedding: Of the images; any length.
        threshold: Above -1 and at most 1. The paper's is that of an embedding made to detect copies; others need
            another one, such as `pinakes.collections.duplicates` chooses for whitened embeddings.

    Returns:
        Places of the images to keep, ascending.

    Source: section 3, "Deduplication", and appendix on data processing, which compares each with its 64 nearest.

    Example:
        >>> deduplicated(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.01]]), 0.98)
        tensor([0, 1])
    """
    # imported by name: the pages that duplicates are shown on are not code that claims depend on
    duplicates = importlib.import_module("pinakes.collections.duplicates")
    kept = torch.ones(len(embedding), dtype=torch.bool, device=embedding.device)
    for members in duplicates.find_groups(functional.normalize(embedding, dim=1), threshold):
        kept[torch.as_tensor(members[1:], device=kept.device)] = False
    return kept.nonzero()[:, 0]


def without_copies_of(
    embedding: Float[Tensor, "images width"],
    others: Float[Tensor, "others width"],
    threshold: float = 0.45,
) -> Int[Tensor, " kept"]:
    """The images that are not like any of others, such as those that methods are judged on.

    Args:
        embedding: Of the images; any length.
        others: Of those that must not be among them.
        threshold: The cosine similarity from which one is left out.

    Returns:
        Places of the images to keep, ascending.

    Source: as `deduplicated`; its groups are to be taken out first.
    """
    similarity, _ = nearest(embedding, others, 1)
    return (similarity[:, 0] < threshold).nonzero()[:, 0]


def retrieved(
    curated: Float[Tensor, "curated width"], pool: Float[Tensor, "pool width"], k: int = 4
) -> Int[Tensor, " found"]:
    """The images of a pool that are among the nearest to a curated image.

    Args:
        curated: Embeddings of images that people have chosen.
        pool: Embeddings of all others.
        k: How many are taken for each curated image, by cosine; all, if there are fewer. Those that several ask for
            count once.

    Returns:
        Their places in the pool, ascending.

    Source: section 3, "Self-supervised image retrieval", for curated sets that are large.

    Example:
        >>> retrieved(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.1], [1.0, 1.0]]), 2)
        tensor([1, 2])
    """
    _, places = nearest(curated, pool, min(k, len(pool)))
    return places.unique()


def retrieved_from_clusters(
    curated: Float[Tensor, "curated width"],
    pool: Float[Tensor, "pool width"],
    centroids: Float[Tensor, "clusters width"],
    count: int,
    least: int = 3,
) -> Int[Tensor, " found"]:
    """Images of a pool from those clusters in which curated images lie.

    Args:
        curated: Embeddings of images that people have chosen.
        pool: Embeddings of all others.
        centroids: Of clusters of the pool, as k-means finds them; each image belongs to the nearest by cosine.
        count: How many images are drawn from such a cluster, from torch's generator; all, if there are fewer.
        least: How many curated images must lie in a cluster before it is drawn from.

    Returns:
        Their places in the pool, ascending.

    Source: section 3, "Self-supervised image retrieval", and appendix on data processing, for curated sets that are
        small.
    """
    _, of_curated = nearest(curated, centroids, 1)
    _, of_pool = nearest(pool, centroids, 1)
    asked = torch.bincount(of_curated[:, 0], minlength=len(centroids)) >= least
    # in random order by cluster, so that the first ones of each cluster are a draw
    order = torch.randperm(len(pool), device=pool.device)
    cluster = of_pool[order, 0]
    by_cluster = cluster.argsort(stable=True)
    sizes = torch.bincount(cluster, minlength=len(centroids))
    rank = torch.arange(len(pool), device=pool.device) - (sizes.cumsum(0) - sizes)[cluster[by_cluster]]
    chosen = (rank < count) & asked[cluster[by_cluster]]
    return order[by_cluster[chosen]].sort().values


# -- the method ------------------------------------------------------------------------------------------------


def evenly_hidden_shares(
    images: int, ratio: tuple[float, float], device: torch.device | str = "cpu"
) -> Float[Tensor, " images"]:
    """The share of each image's patches to hide: none for half of the images, and one of each part of the range for one
    of the others.

    Args:
        images: How many images; of an odd number the larger half has some hidden.
        ratio: The smallest and the largest share, 0 to 1.
        device: Of the result.

    Returns:
        A share for each image, in random order.
    """
    some = (images + 1) // 2
    part = (torch.arange(some, device=device) + torch.rand(some, device=device)) / some
    shares = functional.pad(ratio[0] + (ratio[1] - ratio[0]) * part, (0, images - some))
    return shares[torch.randperm(images, device=device)]


class DINOv2(IBOT):
    """A vision transformer that learns as iBOT does, with balanced targets and features that are drawn apart.

    Args:
        koleo_weight: Of the term that draws features apart, 0 or more.
        tail: The share of training, at its end, in which views have the size of the images; before it they are half as
            large. 0 for the size of the images all the time.
        least_area: The smallest share of an image's area that a large view shows.
        centring: Whether targets are centred by a running mean, as in iBOT, instead of being balanced.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    def __init__(
        self,
        koleo_weight: float = 0.1,
        tail: float = 0.0,
        least_area: float = 0.32,
        centring: bool = False,
        **shared: Any,
    ) -> None:
        super().__init__(least_area=least_area, centring=centring, **shared)
        if koleo_weight < 0:
            raise UserError(f"koleo_weight: expected 0 or more, got {koleo_weight}")
        if not 0 <= tail <= 1:
            raise UserError(f"tail: expected a share from 0 to 1, got {tail}")
        self.koleo_weight, self.tail = koleo_weight, tail

    def build(self, info: DataInfo) -> None:
        """Makes a second head and its copy, too."""
        super().build(info)
        self.patch_head = self.new_head()
        self.teacher_patch_head = MomentumCopy(self.patch_head)

    def patch_heads(self) -> tuple[PrototypeHead, MomentumCopy]:
        """The head of patches and its copy."""
        return self.patch_head, self.teacher_patch_head

    def heads(self) -> list[PrototypeHead]:
        """Both heads of the student."""
        return [self.head, self.patch_head]

    def followed(self) -> list[Any]:
        """The copies with encoder and both heads."""
        return [*super().followed(), (self.teacher_patch_head, self.patch_head)]

    def large_size(self) -> tuple[int, int]:
        """Half the size of the images, in whole patches, until the tail of training."""
        height, width = self.info.size
        if not self.tail or self.done >= 1 - self.tail:
            return height, width
        return self.whole_patches(height / 2), self.whole_patches(width / 2)

    def shares(self, images: int) -> Float[Tensor, " images"]:
        """The share of the patches of each large view to hide."""
        return evenly_hidden_shares(images, self.mask_ratio, self.device)

    def view_targets(
        self, logits: Float[Tensor, "large_views prototypes"]
    ) -> Float[Tensor, "large_views prototypes"]:
        """The teacher's distributions, in which every prototype has the same share."""
        if self.centring:
            return super().view_targets(logits)
        return sinkhorn_knopp(logits / self.warmed(self.teacher_temp), ITERATIONS)

    def patch_targets(
        self,
        known: Float[Tensor, "images patches _embed_dim"],
        hidden: Bool[Tensor, "images patches"],
    ) -> Float[Tensor, "hidden_patches _prototypes"]:
        """Likewise of hidden patches."""
        if self.centring:
            return super().patch_targets(known, hidden)
        temperature = self.warmed(self.teacher_patch_temp, self.warmup_teacher_patch_temp)
        return sinkhorn_knopp(self.teacher_patch_head(known[hidden]) / temperature, ITERATIONS)

    def view_loss(
        self,
        tokens: Float[Tensor, "all_views _embed_dim"],
        known: Float[Tensor, "large_views _embed_dim"],
    ) -> Float[Tensor, ""]:
        """How far the student is from what the teacher says of other views, and how near its features are."""
        loss = super().view_loss(tokens, known)
        one, other = tokens[: len(known)].chunk(2)
        if not self.koleo_weight or len(one) * processes() < 2:
            return loss
        return loss + self.koleo_weight * (koleo_loss(one) + koleo_loss(other))


def nearness_of_features(method: DINOv2, seed: int, steps: int, device: str) -> float:
    """The mean cosine of the features of unseen images to the nearest other ones, after training on others."""
    data = load_data(CLAIM_DATA, task=method.task, seed=seed)
    assert data.test is not None
    plan = SHORT_PLAN | {"steps": steps, "seed": seed, "device": device, "hold_out": 0.0}
    method.fit(data, **plan)
    embedding = method.predict(data.test)["embedding"]
    return float(nearest_similarity(embedding, torch.arange(len(embedding))).mean())


@claim(
    text="With the KoLeo term the features of images lie further from the nearest others than without it.",
    where="section 4, KoLeo regularizer: a uniform span of the features within a batch",
    higher_is_better=False,
)
def koleo_spreads_features(lab: Lab) -> Trial:
    """Handwritten digits, of which unseen ones are compared; the same network and budget on both sides."""
    steps = 2 if lab.quick else SHORT_PLAN["steps"]
    return lab.measure(
        ours=lambda seed: nearness_of_features(DINOv2(**SMALL), seed, steps, str(lab.device)),
        baseline=lambda seed: nearness_of_features(
            DINOv2(koleo_weight=0.0, **SMALL), seed, steps, str(lab.device)
        ),
        metric="mean cosine to the nearest other image",
    )


@claim(
    text="A linear classifier reads no less from features that the KoLeo term drew apart than from others.",
    where="section 6.3, table 3",
    higher_is_better=True,
    margin=0.02,
)
def koleo_costs_no_accuracy(lab: Lab) -> Trial:
    """As above."""
    return lab.duel(
        ours=lambda: DINOv2(**SMALL),
        baseline=lambda: DINOv2(koleo_weight=0.0, **SMALL),
        data=CLAIM_DATA,
        metric="linear_probe",
        **SHORT_PLAN,
    )
