r"""PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization, Defard et al., ICPR 2020
workshops, arXiv:2011.08785.

Each position of the image has a Gaussian of its own: of what a pretrained network's layers say there about normal
images. A patch of a test image is as anomalous as it is far from the Gaussian of its position, in standard deviations.
The covariance is full, so that it also tells how features of different layers go together. Of all features a random
choice is kept, which loses little and keeps the covariances small.

The equations that the code follows, for the embedding x_ij of position (i, j), `patch_embedding`:

- (1) `RunningGaussians.covariance`: Sigma_ij = 1 / (N - 1) sum_k (x_ij^k - mu_ij)(x_ij^k - mu_ij)^T + epsilon I, with
  epsilon 0.01; here summed batch by batch, so that no image's features are kept (Chan et al., 1979).
- (2) `mahalanobis`: M(x_ij) = sqrt((x_ij - mu_ij)^T Sigma_ij^-1 (x_ij - mu_ij)); here the length of L^-1 (x_ij - mu_ij)
  with Sigma_ij = L L^T.

The map holds these distances, upsampled and smoothed by a Gaussian of sigma 4; the score of an image is the map's
largest value.

Differences from the paper: the default backbone is the embedded `pinakes/tiny_conv`, which needs no download; the
paper's are `timm/resnet18` with 100 features and `timm/wide_resnet50_2` with 550. The map is upsampled bilinearly, as
in public implementations.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.backbones import FeatureExtractor
from pinakes.nn.maps import smoothed_map
from pinakes.papers.anomaly.base import Detector
from pinakes.tasks.base import Batch, Prediction

EQUATIONS = (
    (
        "(1)",
        r"\Sigma_{ij} = \frac{1}{N - 1} \sum_{k=1}^{N} (x_{ij}^k - \mu_{ij})(x_{ij}^k - \mu_{ij})^{\mathrm{T}} "
        r"+ \epsilon I",
    ),
    ("(2)", r"M(x_{ij}) = \sqrt{(x_{ij} - \mu_{ij})^{\mathrm{T}} \Sigma_{ij}^{-1} (x_{ij} - \mu_{ij})}"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""

POSITIONS_AT_A_TIME = 64
"""Positions whose covariances are inverted together; bounds the memory beside the covariances themselves."""


def patch_embedding(
    levels: Sequence[Float[Tensor, "batch _width _h _w"]], chosen: Int[Tensor, " features"]
) -> Float[Tensor, "batch features rows columns"]:
    """The chosen features of all layers at each position of the finest one's grid.

    Args:
        levels: Feature maps, the finest first; the value of the cell in which a position lies stands for coarser ones.
        chosen: Indices of features, counted through all layers.

    Source: section III-A.
    """
    grid = levels[0].shape[-2:]
    brought = [functional.interpolate(level, size=grid, mode="nearest") for level in levels[1:]]
    return torch.cat([levels[0], *brought], dim=1).index_select(1, chosen)


def by_position(
    embedding: Float[Tensor, "batch features rows columns"],
) -> Float[Tensor, "positions batch features"]:
    """The embeddings of all images, position by position."""
    return embedding.flatten(2).permute(2, 0, 1)


class RunningGaussians:
    """Mean and covariance of several groups of rows at once, from batches that need not be kept.

    Args:
        groups: How many Gaussians.
        features: Their dimensions.
        device: Where they are.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """

    def __init__(self, groups: int, features: int, device: torch.device | None = None) -> None:
        self.count = 0
        self.mean = torch.zeros(groups, features, device=device)
        self.scatter = torch.zeros(groups, features, features, device=device)

    def add(self, rows: Float[Tensor, "groups batch features"]) -> None:
        """Takes in the next rows of every group."""
        batch = rows.shape[1]
        total = self.count + batch
        mean = rows.mean(1)
        shift = mean - self.mean
        centred = rows - mean[:, None]
        self.scatter.baddbmm_(centred.mT, centred)
        self.scatter.baddbmm_(shift[:, :, None], shift[:, None], alpha=self.count * batch / total)
        self.mean += shift * (batch / total)
        self.count = total

    def covariance(self, groups: slice, epsilon: float = 0.01) -> Float[Tensor, "_groups features features"]:
        """The regularised covariances of some groups: equation (1).

        Args:
            groups: Which.
            epsilon: What is added to the variances.
        """
        covariance = self.scatter[groups] / max(self.count - 1, 1)
        covariance.diagonal(dim1=1, dim2=2).add_(epsilon)
        return covariance


def whitening(
    covariance: Float[Tensor, "groups features features"],
) -> Float[Tensor, "groups features features"]:
    """The lower triangular matrices L^-1 with covariance L L^T, which make rows uncorrelated and of variance 1."""
    identity = torch.eye(covariance.shape[-1], device=covariance.device, dtype=covariance.dtype)
    lower = torch.linalg.cholesky(covariance)
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)


def mahalanobis(
    rows: Float[Tensor, "groups batch features"],
    mean: Float[Tensor, "groups features"],
    whiten: Float[Tensor, "groups features features"],
) -> Float[Tensor, "groups batch"]:
    """Distances of rows to the Gaussian of their group: equation (2).

    Args:
        rows: The rows of each group.
        mean: The means.
        whiten: What `whitening` made of the covariances.
    """
    return torch.linalg.vector_norm((rows - mean[:, None]) @ whiten.mT, dim=-1)


class PaDiM(Detector):
    """The detector of the paper: no training, one Gaussian a position; all images must have the size it was fitted on.

    Args:
        backbone: Name of the network that describes patches; the paper's are "timm/resnet18", "timm/wide_resnet50_2".
        layers: Its feature levels, the finest first; 1, 2 and 3 are the paper's layer1 to layer3 of a ResNet.
        features: How many features are kept at random; the paper's are 100 and 550 for its two backbones.
        epsilon: What is added to the variances; above 0.
        sigma: Standard deviation of the map's Gaussian in pixels.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    min_images = 2
    mean: Tensor
    whiten: Tensor
    chosen: Tensor

    def __init__(
        self,
        backbone: str = "pinakes/tiny_conv",
        layers: Sequence[int] = (1, 2, 3),
        features: int = 100,
        epsilon: float = 0.01,
        sigma: float = 4.0,
    ) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"features: expected 1 or more, got {features}")
        if not epsilon > 0:
            raise UserError(f"epsilon: expected above 0, got {epsilon}")
        if sigma < 0:
            raise UserError(f"sigma: expected 0 or more pixels, got {sigma}")
        self.backbone_name = backbone
        self.layers = tuple(layers)
        self.features = features
        self.epsilon = epsilon
        self.sigma = sigma

    def build(self, info: DataInfo) -> None:
        """Makes the backbone, chooses the features, and leaves the Gaussians to fitting.

        Raises:
            UserError: If the backbone has fewer features than are to be kept.
        """
        self.backbone = FeatureExtractor(self.backbone_name, self.layers, info.channels).freeze()
        width = sum(self.backbone.widths)
        if self.features > width:
            raise UserError(
                f"features: {self.backbone_name} has {width} in these layers, fewer than {self.features}"
            )
        self.register_buffer("chosen", torch.randperm(width)[: self.features].sort().values)
        self.register_buffer("mean", torch.empty(0, self.features))
        self.register_buffer("whiten", torch.empty(0, self.features, self.features))

    def describe(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The patch embeddings of images in [0, 1]."""
        return patch_embedding(self.backbone(image), self.chosen)

    def correlated(self) -> Bool[Tensor, "features features"]:
        """Which features may be correlated: all."""
        return torch.ones(self.features, self.features, dtype=torch.bool, device=self.device)

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Goes through the training images once and keeps the Gaussian of each position."""
        gaussians: RunningGaussians | None = None
        for batch in self.batches(data.train, plan, "features"):
            rows = by_position(self.describe(batch["image"]))
            gaussians = gaussians or RunningGaussians(len(rows), self.features, self.device)
            gaussians.add(rows)
        assert gaussians is not None
        mask = self.correlated()
        for start in range(0, len(gaussians.mean), POSITIONS_AT_A_TIME):
            some = slice(start, start + POSITIONS_AT_A_TIME)
            gaussians.scatter[some] = whitening(gaussians.covariance(some, self.epsilon) * mask)
        self.mean, self.whiten = gaussians.mean, gaussians.scatter

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        """Scores pixels by the distance of their patches to the Gaussians, and images by their worst pixel.

        Raises:
            ValueError: If the images have another size than those it was fitted on.
        """
        described = self.describe(batch["image"])
        grid = described.shape[-2:]
        if grid.numel() != len(self.mean):
            raise ValueError(
                f"image: PaDiM was fitted on {self.info.size[0]}x{self.info.size[1]} pixels, got "
                f"{tuple(batch['image'].shape[-2:])}; resize to that, or fit it anew"
            )
        distances = mahalanobis(by_position(described), self.mean, self.whiten)
        smoothed = smoothed_map(distances.T.unflatten(1, grid), batch["image"].shape[-2:], self.sigma)
        return {"score": smoothed.flatten(1).max(1).values, "map": smoothed}


class DiagonalPaDiM(PaDiM):
    """PaDiM with the variances alone."""

    def correlated(self) -> Bool[Tensor, "features features"]:
        """Which features may be correlated: none but with themselves."""
        return torch.eye(self.features, dtype=torch.bool, device=self.device)


class LevelwisePaDiM(PaDiM):
    """PaDiM without the correlations between features of different layers."""

    def correlated(self) -> Bool[Tensor, "features features"]:
        """Which features may be correlated: those of one layer."""
        ends = torch.tensor(self.backbone.widths, device=self.device).cumsum(0)
        level = torch.bucketize(self.chosen, ends, right=True)
        return level[:, None] == level


@claim(
    text="Modelling how features correlate locates defects better than their variances alone.",
    where="the embedding's distribution in section III-B: a full covariance for each position",
    higher_is_better=True,
)
def covariance_beats_variances(lab: Lab) -> Trial:
    """One material; each seed draws crops and features anew, the same for both."""
    return lab.duel(ours=PaDiM, baseline=DiagonalPaDiM, data="textures?size=64", metric="pixel_auroc")


@claim(
    text="Correlations between the layers' features help to locate defects.",
    where="abstract, and the study of inter-layer correlation in the experiments",
    higher_is_better=True,
)
def correlations_between_layers_help(lab: Lab) -> Trial:
    """One material; the baseline has the same features but sets their covariance between layers to zero."""
    return lab.duel(ours=PaDiM, baseline=LevelwisePaDiM, data="textures?size=64", metric="pixel_auroc")
