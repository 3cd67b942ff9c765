"""Linear probes of patch features: what class or depth the pixels of a patch have, read by a linear model."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.nn.probes import LinearProbe, fitted_classifier, fitted_regressor
from pinakes.tasks.base import Batch, Prediction
from pinakes.tasks.segmentation import confusion_matrix, intersection_over_union

MOST_PATCHES = 40_000
"""Patches that a probe is fitted on, at most; of more, a random part."""
SMALLEST_DEPTH = 1e-6


def patch_classes(
    semantic: Int[Tensor, "batch height width"], classes: int, size: tuple[int, int]
) -> Float[Tensor, "batch classes rows columns"]:
    """The share of each class among the pixels of every patch that have one; 0 for all where none has.

    Args:
        semantic: Class of each pixel, -1 where it has none.
        classes: How many classes there are.
        size: Rows and columns of patches.

    Example:
        >>> patch_classes(torch.tensor([[[0, 1], [1, -1]]]), 2, (1, 1)).flatten()
        tensor([0.3333, 0.6667])
    """
    each = functional.one_hot(semantic.clamp(min=0), classes).movedim(-1, 1).float()
    shares = functional.adaptive_avg_pool2d(each * (semantic >= 0)[:, None], size)
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-12)


def rows_of(maps: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "patches width"]:
    """One row for every patch, image after image."""
    return maps.movedim(1, -1).flatten(0, 2)


class PatchProbes:
    """Linear probes of the classes and the depths of pixels, fitted on some images and judged on others.

    A class is read by logistic regression on the shares of classes in each patch, depth by ridge regression on the mean
    of its logarithm. Answers are brought to the size of the images bilinearly, and judged pixel by pixel.

    Args:
        classes: How many classes pixels may have.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.error, self.pixels = 0.0, 0
        self.semantic: LinearProbe | None = None
        self.depth: LinearProbe | None = None
        self._features: list[Tensor] = []
        self._shares: list[Tensor] = []
        self._logs: list[Tensor] = []

    def learn(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in a batch to fit on; one without features or truth of pixels is passed over."""
        if "features" not in prediction or not {"semantic", "depth"} & set(batch):
            return
        maps = prediction["features"].float().cpu()
        size = (maps.shape[-2], maps.shape[-1])
        self._features.append(rows_of(maps))
        if "semantic" in batch:
            self._shares.append(rows_of(patch_classes(batch["semantic"].cpu(), self.classes, size)))
        if "depth" in batch:
            logs = batch["depth"].cpu().clamp(min=SMALLEST_DEPTH).log()[:, None]
            self._logs.append(rows_of(functional.adaptive_avg_pool2d(logs, size)))

    def fit(self) -> None:
        """Fits the probes on what was taken in, of which nothing is kept."""
        if self._features:
            features = torch.cat(self._features)
            drawn = np.random.default_rng(0).permutation(len(features))[:MOST_PATCHES]
            some = torch.as_tensor(np.sort(drawn))
            if self._shares:
                shares = torch.cat(self._shares)[some]
                counted = shares.sum(1) > 0
                self.semantic = fitted_classifier(features[some][counted], shares[counted], self.classes)
            if self._logs:
                self.depth = fitted_regressor(features[some], torch.cat(self._logs)[some])
        self._features, self._shares, self._logs = [], [], []

    def judge(self, batch: Batch, prediction: Prediction) -> None:
        """Takes in a batch to be judged on."""
        if "features" not in prediction:
            return
        maps = prediction["features"].float().cpu()
        rows = rows_of(maps)
        size = (batch["image"].shape[-2], batch["image"].shape[-1])

        def pixels(values: Tensor) -> Tensor:
            grid = values.view(len(maps), maps.shape[-2], maps.shape[-1], -1).movedim(-1, 1).float()
            return functional.interpolate(grid, size, mode="bilinear")

        if self.semantic is not None and "semantic" in batch:
            answers = pixels(self.semantic(rows)).argmax(1)
            self.confusion += confusion_matrix(batch["semantic"].cpu(), answers, self.classes)
        if self.depth is not None and "depth" in batch:
            ratio = pixels(self.depth(rows))[:, 0].exp() / batch["depth"].cpu().clamp(min=SMALLEST_DEPTH)
            self.error += float((ratio - 1).abs().double().sum())
            self.pixels += ratio.numel()

    def metrics(self) -> dict[str, float]:
        """`linear_miou` and `depth_error`, as far as there was truth for them."""
        found = {}
        if self.confusion.sum():
            found["linear_miou"] = float(intersection_over_union(self.confusion).nanmean())
        if self.pixels:
            found["depth_error"] = self.error / self.pixels
        return found
