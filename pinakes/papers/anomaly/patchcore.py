"""PatchCore: Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022, arXiv:2106.08265.

The patches of normal images, described by the middle layers of a pretrained network, are kept in a memory bank. A
patch of a test image is as anomalous as it is far from the nearest patch in the bank. The bank is thinned to a
coreset that covers it well, so that the search stays fast.

The equations that the code follows:

- (1, 2) `patch_features`: at each position of a feature map, the mean over its p x p neighbourhood; the maps of two
  consecutive layers are brought to the finer one's grid and concatenated.
- (5) `greedy_coreset`: the coreset M_C minimises max_m min_{n in M_C} ||m - n||. Greedily, the next member is always
  the patch farthest from those chosen so far, with distances taken after a random linear projection psi.
- (6) s* = max over test patches of the distance to their nearest neighbour m* in the bank.
- (7) `reweighted_score`: s = (1 - exp ||m_test - m*|| / sum_{m in N_b(m*)} exp ||m_test - m||) s*, where N_b(m*)
  holds the b bank members nearest to m*, so that a nearest neighbour in a rare region of the bank weighs more.

The map holds the patch distances, upsampled bilinearly and smoothed by a Gaussian of sigma 4 (section 3.3).

Differences from the paper: the default backbone is the embedded `pinakes/tiny_conv`, which needs no download; the
paper's is `timm/wide_resnet50_2`. The paper names b but not its value; 9 is what public implementations use. The
authors' code projects on 128 Gaussian directions; 256 orthonormal ones cover better and cost little more. Beyond
`bank_limit` patches the coreset is chosen in a stream, of which the paper does not speak.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.maps import smoothed_map
from pinakes.nn.memory import (
    FaissSearch,
    StreamedCoreset,
    check_search,
    greedy_coreset,
    nearest_neighbours,
)
from pinakes.papers.anomaly.base import Detector
from pinakes.tasks.base import Batch, Prediction

__all__ = [
    "PatchCore",
    "greedy_coreset",
    "nearest_neighbours",
    "patch_features",
    "reweighted_score",
]

EQUATIONS = (
    (
        "(5)",
        r"\mathcal{M}_C^* = \argmin\limits_{\mathcal{M}_C \subset \mathcal{M}} \max\limits_{m \in \mathcal{M}} "
        r"\min\limits_{n \in \mathcal{M}_C} \lVert \psi(m) - \psi(n) \rVert_2",
    ),
    (
        "(6)",
        r"s^* = \max\limits_{m^{\mathrm{test}}} \min\limits_{m \in \mathcal{M}_C} "
        r"\lVert m^{\mathrm{test}} - m \rVert_2",
    ),
    (
        "(7)",
        r"s = \left(1 - \frac{\exp \lVert m^{\mathrm{test}} - m^* \rVert_2}{\sum_{m \in \mathcal{N}_b(m^*)} "
        r"\exp \lVert m^{\mathrm{test}} - m \rVert_2}\right) s^*",
    ),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""


def patch_features(
    levels: Sequence[Float[Tensor, "batch _width _h _w"]], neighbourhood: int = 3
) -> Float[Tensor, "batch features rows columns"]:
    """Locally aware patch features from the feature maps of several layers.

    Args:
        levels: Feature maps, the finest first; the result has its grid.
        neighbourhood: Side p of the square that is averaged around each position, in cells; odd.

    Returns:
        The averaged maps on the finest grid, concatenated along the features.

    Source: equations (1) to (3); the mean is the paper's f_agg.
    """
    pooled = [
        functional.avg_pool2d(level, neighbourhood, stride=1, padding=neighbourhood // 2) for level in levels
    ]
    grid = pooled[0].shape[-2:]
    return torch.cat(
        [pooled[0]]
        + [functional.interpolate(p, size=grid, mode="bilinear", align_corners=False) for p in pooled[1:]],
        dim=1,
    )


def reweighted_score(
    distance: Float[Tensor, " batch"], neighbourhood_distances: Float[Tensor, "batch neighbours"]
) -> Float[Tensor, " batch"]:
    """The image score: the largest patch distance, less where its nearest neighbour lies in a dense part of the bank.

    Args:
        distance: s*, the distance of each image's most anomalous patch to its nearest bank member m*.
        neighbourhood_distances: That patch's distances to the bank members nearest to m*, m* itself first.

    Source: equation (7), as a softmax so that large distances do not overflow.
    """
    return (1 - neighbourhood_distances.softmax(dim=1)[:, 0]) * distance


class PatchCore(Detector):
    """The detector of the paper: no training, a memory bank of normal patches.

    Args:
        backbone: Name of the network that describes patches; the paper's is "timm/wide_resnet50_2".
        layers: Its feature levels, the finest first; 2 and 3 are the paper's layer2 and layer3 of a ResNet.
        neighbourhood: Side of the square of cells averaged around each patch; odd.
        coreset_ratio: Share of the patches that the bank keeps, above 0 to 1; 1 keeps all.
        projection: Dimensions of the random projection in which the coreset is chosen; all, where patches have fewer.
        neighbours: b, how many bank members around the nearest one re-weight the image score; 1 leaves it as it is.
        sigma: Standard deviation of the map's Gaussian in pixels.
        bank_limit: The most patches that fitting holds, 2 or more. Up to it the coreset is chosen from all patches;
            beyond it in a stream, as `StreamedCoreset` says, and the bank has at most so many.
        search: How neighbours are found, "exact" or "faiss" (the extra of that name; exact as well, on the CPU).

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    bank: Tensor
    training_defaults = {"batch_size": 32}

    def __init__(
        self,
        backbone: str = "pinakes/tiny_conv",
        layers: Sequence[int] = (2, 3),
        neighbourhood: int = 3,
        coreset_ratio: float = 0.1,
        projection: int = 256,
        neighbours: int = 9,
        sigma: float = 4.0,
        bank_limit: int = 2**18,
        search: str = "exact",
    ) -> None:
        super().__init__()
        check_search(search)
        if not 0 < coreset_ratio <= 1:
            raise UserError(f"coreset_ratio: expected above 0 to 1, got {coreset_ratio}")
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise UserError(f"neighbourhood: expected an odd number of cells, got {neighbourhood}")
        if neighbours < 1 or projection < 1:
            raise UserError(f"neighbours, projection: expected 1 or more, got {neighbours}, {projection}")
        if sigma < 0:
            raise UserError(f"sigma: expected 0 or more pixels, got {sigma}")
        if bank_limit < 2:
            raise UserError(f"bank_limit: expected 2 patches or more, got {bank_limit}")
        self.backbone_name = backbone
        self.layers = tuple(layers)
        self.neighbourhood = neighbourhood
        self.coreset_ratio = coreset_ratio
        self.projection = projection
        self.neighbours = neighbours
        self.sigma = sigma
        self.bank_limit = bank_limit
        self.search = search
        self._index: FaissSearch | None = None

    def build(self, info: DataInfo) -> None:
        """Makes the backbone and an empty bank."""
        self.backbone = FeatureExtractor(self.backbone_name, self.layers, info.channels).freeze()
        self.register_buffer("bank", torch.empty(0, sum(self.backbone.widths)))

    def describe(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The patch features of images in [0, 1]."""
        return patch_features(self.backbone(image), self.neighbourhood)

    def nearest(
        self, patches: Float[Tensor, "queries features"], count: int = 1
    ) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
        """Distances to and indices of the nearest patches in the bank."""
        if self.search == "exact":
            return nearest_neighbours(patches, self.bank, count)
        if self._index is None or self._index.bank is not self.bank:
            self._index = FaissSearch(self.bank)
        return self._index(patches, count)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Streams the patches of the training images into the bank and thins it to a coreset."""
        generator = torch.Generator(device=self.device).manual_seed(plan.seed)
        stream: StreamedCoreset | None = None
        for batch in self.batches(data.train, plan, "features"):
            described = self.describe(batch["image"])
            if stream is None:
                total = len(data.train) * described.shape[-2:].numel()
                stream = StreamedCoreset(
                    max(2, min(self.bank_limit, total)), projection=self.projection, generator=generator
                )
            stream.add(rearrange(described, "b f h w -> (b h w) f"))
        assert stream is not None
        self.bank = stream.choose(max(1, round(self.coreset_ratio * stream.seen)), progress=plan.progress)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores images and their pixels by the distance of their patches to the bank."""
        described = self.describe(batch["image"])
        patches = described.flatten(2).mT
        found = self.nearest(patches.flatten(0, 1))
        patch_scores, indices = (each.view(-1, patches.shape[1]) for each in found)
        distance, worst = patch_scores.max(dim=1, keepdim=True)
        patch = torch.take_along_dim(patches, worst[:, :, None], dim=1)
        nearest = torch.take_along_dim(indices, worst, dim=1)[:, 0]
        _, around = self.nearest(self.bank[nearest], min(self.neighbours, len(self.bank)))
        to_around = torch.linalg.vector_norm(patch - self.bank[around], dim=-1)
        score = reweighted_score(distance[:, 0], to_around) if to_around.shape[1] > 1 else distance[:, 0]
        patch_map = patch_scores.unflatten(1, described.shape[-2:])
        return {"score": score, "map": smoothed_map(patch_map, batch["image"].shape[-2:], self.sigma)}


class RandomBank(PatchCore):
    """PatchCore with a random subset of the patches in place of the coreset."""

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Keeps all patches, then as many of them as a coreset would have."""
        share, self.coreset_ratio = self.coreset_ratio, 1.0
        super().learn(data, plan)
        self.coreset_ratio = share
        generator = torch.Generator(device=self.device).manual_seed(plan.seed)
        order = torch.randperm(len(self.bank), generator=generator, device=self.device)
        self.bank = self.bank[order[: max(1, round(share * len(self.bank)))]]


@claim(
    text="A greedy coreset of 1 % of the patches detects better than as many patches taken at random.",
    where="the ablation of memory bank subsampling in the experiments",
    higher_is_better=True,
)
def coreset_beats_random_subset(lab: Lab) -> Trial:
    """One material, 200 normal crops; each seed draws crops, coreset and subset anew, the same crops for both."""
    return lab.duel(
        ours=lambda: PatchCore(coreset_ratio=0.01),
        baseline=lambda: RandomBank(coreset_ratio=0.01),
        data="textures?size=64",
        metric="auroc",
    )
