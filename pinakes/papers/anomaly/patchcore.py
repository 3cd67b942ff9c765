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
paper's is `timm/wide_resnet50_2`. The paper names b but not its value; 9 is what public implementations use.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.papers.anomaly.base import Detector, smoothed_map
from pinakes.tasks.base import Batch, Prediction

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

CHUNK_ELEMENTS = 2**24
"""Elements of a block of the distance matrix; bounds the memory of a search."""

LEADING_SHARE = 16
"""One in so many rows is kept up to date at every step of the coreset."""


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


def greedy_coreset(
    features: Float[Tensor, "patches features"],
    size: int,
    *,
    projection: int = 128,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Int[Tensor, " size"]:
    """Chooses `size` rows that cover all rows: each next one is the farthest from those already chosen.

    Args:
        features: The rows to choose from.
        size: How many to choose, from 1 to all.
        projection: Dimensions of the Gaussian random projection in which distances are taken; rows that have no
            more dimensions than that are taken as they are.
        generator: Source of the projection and of the first choice, on the features' device.
        progress: Whether to show a progress bar.

    Returns:
        Indices of the chosen rows, in the order of choice.

    Raises:
        ValueError: If `size` is not between 1 and the number of rows.

    Distances only shrink as the coreset grows. So only the rows that were farthest at the last look are kept up to
    date at every step, and the others, whose last known distances bound what they are now, in blocks, when the
    farthest of those rows falls below that bound. The choice is the same as by brute force.

    Source: equation (5) and algorithm 1; a 2-approximation of the best cover (Gonzalez, 1985).
    """
    count, width = features.shape
    if not 1 <= size <= count:
        raise ValueError(f"size: expected 1 to {count} (the number of patches), got {size}")
    if width > projection:
        basis = torch.randn(
            width, projection, generator=generator, device=features.device, dtype=features.dtype
        )
        features = features @ (basis / projection**0.5)
    squared = features.square().sum(1)
    chosen = torch.empty(size, dtype=torch.int64, device=features.device)
    chosen[0] = torch.randint(count, (1,), generator=generator, device=features.device)[0]
    nearest = torch.full_like(squared, torch.inf)
    settled, taken = 0, 1
    leading = max(256, count // LEADING_SHARE)
    with tqdm(total=size, initial=1, desc="coreset", disable=not progress, leave=False) as bar:
        while taken < size:
            for latest in chosen[settled:taken].split(256):
                torch.minimum(nearest, _squared_distances(features, squared, latest).amin(1), out=nearest)
            nearest[chosen[settled:taken]] = -torch.inf
            settled = taken
            farthest, rows = nearest.topk(min(leading + 1, count))
            bound = farthest[-1] if count > leading else farthest.new_tensor(-torch.inf)
            rows = rows[:leading]
            distance, row_features, row_squared = farthest[:leading].clone(), features[rows], squared[rows]
            while taken < size and distance[best := distance.argmax()] >= bound:
                chosen[taken] = rows[best]
                taken += 1
                latest_distance = _squared_distances(row_features, row_squared, best[None])[:, 0]
                torch.minimum(distance, latest_distance, out=distance)
                distance[best] = -torch.inf
            bar.update(taken - settled)
    return chosen


def _squared_distances(rows: Tensor, squared: Tensor, indices: Tensor) -> Tensor:
    return torch.addmm(squared[:, None], rows, rows[indices].T, alpha=-2) + squared[indices]


def nearest_neighbours(
    queries: Float[Tensor, "queries features"], bank: Float[Tensor, "bank features"], count: int = 1
) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
    """Distances to and indices of the nearest rows of a bank, nearest first, in bounded memory.

    Args:
        queries: Rows to look up.
        bank: Rows to search.
        count: How many to return for each query.
    """
    rows = max(1, CHUNK_ELEMENTS // len(bank))
    parts = []
    for chunk in queries.split(rows):
        distances = torch.cdist(chunk, bank)
        parts.append(distances.min(1, keepdim=True) if count == 1 else distances.topk(count, largest=False))
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


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
        projection: Dimensions of the random projection in which the coreset is chosen.
        neighbours: b, how many bank members around the nearest one re-weight the image score; 1 leaves it as it is.
        sigma: Standard deviation of the map's Gaussian in pixels.

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
        projection: int = 128,
        neighbours: int = 9,
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        if not 0 < coreset_ratio <= 1:
            raise UserError(f"coreset_ratio: expected above 0 to 1, got {coreset_ratio}")
        if neighbourhood < 1 or neighbourhood % 2 == 0:
            raise UserError(f"neighbourhood: expected an odd number of cells, got {neighbourhood}")
        if neighbours < 1 or projection < 1:
            raise UserError(f"neighbours, projection: expected 1 or more, got {neighbours}, {projection}")
        if sigma < 0:
            raise UserError(f"sigma: expected 0 or more pixels, got {sigma}")
        self.backbone_name = backbone
        self.layers = tuple(layers)
        self.neighbourhood = neighbourhood
        self.coreset_ratio = coreset_ratio
        self.projection = projection
        self.neighbours = neighbours
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes the backbone and an empty bank."""
        self.backbone = FeatureExtractor(self.backbone_name, self.layers, info.channels).freeze()
        self.register_buffer("bank", torch.empty(0, sum(self.backbone.widths)))

    def describe(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The patch features of images in [0, 1]."""
        return patch_features(self.backbone(image), self.neighbourhood)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Fills the bank with the patches of the training images and thins it to a coreset."""
        patches = self.describe_training_images(
            data, plan, lambda image: rearrange(self.describe(image), "b f h w -> (b h w) f")
        )
        size = max(1, round(self.coreset_ratio * len(patches)))
        if size < len(patches):
            generator = torch.Generator(device=self.device).manual_seed(plan.seed)
            chosen = greedy_coreset(
                patches, size, projection=self.projection, generator=generator, progress=plan.progress
            )
            patches = patches[chosen]
        self.bank = patches

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores images and their pixels by the distance of their patches to the bank."""
        described = self.describe(batch["image"])
        rows, columns = described.shape[-2:]
        patches = rearrange(described, "b f h w -> (b h w) f")
        distances, indices = nearest_neighbours(patches, self.bank)
        patch_scores = rearrange(distances, "(b h w) 1 -> b (h w)", h=rows, w=columns)
        distance, worst = patch_scores.max(dim=1)
        images = torch.arange(len(distance), device=self.device)
        patch = rearrange(patches, "(b n) f -> b n f", b=len(distance))[images, worst]
        nearest = rearrange(indices, "(b n) 1 -> b n", b=len(distance))[images, worst]
        _, around = nearest_neighbours(self.bank[nearest], self.bank, min(self.neighbours, len(self.bank)))
        to_around = torch.linalg.vector_norm(patch[:, None] - self.bank[around], dim=-1)
        score = reweighted_score(distance, to_around) if to_around.shape[1] > 1 else distance
        patch_map = rearrange(patch_scores, "b (h w) -> b h w", h=rows, w=columns)
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
