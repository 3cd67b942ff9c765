"""Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors, ICML 2022, arXiv:2204.06507.

The features of the training images, brought to length 1, are kept as they are, and nothing is assumed of how they are
distributed. An image is as strange as its features are far from their k-th nearest among them.

What the code follows, with phi(x) the features before the last layer:

- Section 3, `unit_features`: z = phi(x) / ||phi(x)||_2.
- Section 3, `knn_score`: r_k(z) = ||z - z_(k)||_2, the distance to the k-th nearest training image, found exactly.
- Of the training images a share alpha is kept, taken at random; on ImageNet the paper goes down to a hundredth.

Differences from the paper: its k is 50 for the 50 000 training images of CIFAR-10, and 1000 for ImageNet's. Sets
here are smaller, and the default is 10. Its code takes the squared distance, which orders images alike. Training with
a contrastive loss, its other variant, is left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.nn.memory import nearest_neighbours
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.papers.anomaly.mahalanobis_ood import Mahalanobis
from pinakes.papers.anomaly.max_softmax import MaxSoftmax
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("Section 3, `unit_features`", r"z = \frac{\phi(x)}{\lVert \phi(x) \rVert_2}"),
    ("Section 3, `knn_score`", r"r_k(z) = \lVert z - z_{(k)} \rVert_2"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""


def unit_features(features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch features"]:
    """Features of length 1; those of length 0 stay as they are.

    Source: section 3.
    """
    return functional.normalize(features, dim=1)


def knn_score(
    features: Float[Tensor, "batch features"], bank: Float[Tensor, "images features"], k: int
) -> Float[Tensor, " batch"]:
    """The distance to the k-th nearest row of a bank, from 0 to 2 for rows of length 1; higher where stranger.

    Args:
        features: Rows to look up, as `unit_features` returns them.
        bank: Rows of the training images, likewise.
        k: From 1 to the number of rows of the bank.

    Raises:
        ValueError: If k is not in that range.

    Source: section 3.

    Example:
        >>> bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        >>> knn_score(torch.tensor([[1.0, 0.0]]), bank, k=3)
        tensor([2.])
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k: expected 1 to {len(bank)} (the rows of the bank), got {k}")
    return nearest_neighbours(features, bank, k)[0][:, -1]


class DeepKNN(UnknownDetector):
    """Scores images by the distance of their features to the k-th nearest training image.

    Args:
        k: Which neighbour; where the bank has fewer rows, the farthest.
        alpha: Share of the training images that the bank keeps, above 0 to 1.
        backbone: Name of the network that is fine-tuned.
        learning_rate: Of AdamW.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    bank: Tensor

    def __init__(
        self,
        k: int = 10,
        alpha: float = 1.0,
        backbone: str = "pinakes/tiny_conv",
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(backbone, learning_rate)
        if k < 1:
            raise UserError(f"k: expected 1 or more, got {k}")
        if not 0 < alpha <= 1:
            raise UserError(f"alpha: expected above 0 to 1, got {alpha}")
        self.k = k
        self.alpha = alpha

    def build(self, info: DataInfo) -> None:
        """Makes the classifier and an empty bank."""
        super().build(info)
        self.register_buffer("bank", torch.empty(0, self.classifier.head.in_features))

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the classifier and fills the bank with the features of training images."""
        super().learn(data, plan)
        features, _ = self.features_and_labels(data, plan)
        size = max(1, round(self.alpha * len(features)))
        if size < len(features):
            generator = torch.Generator().manual_seed(plan.seed)
            kept = torch.randperm(len(features), generator=generator)[:size].sort().values
            features = features[kept.to(features.device)]
        self.bank = unit_features(features)

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        features = self.classifier.features(image)
        score = knn_score(unit_features(features), self.bank, min(self.k, len(self.bank)))
        return {"score": score, "label": self.classifier.head(features).argmax(1)}


@claim(
    text="The distance to the k-th nearest training image tells unknown images from known ones better than the largest "
    "class probability.",
    where="table 1",
    higher_is_better=True,
)
def deep_knn_beats_max_softmax(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier."""
    return lab.duel(
        ours=DeepKNN, baseline=MaxSoftmax, data="digits", metric="auroc", steps=100, batch_size=64
    )


@claim(
    text="The distance to the k-th nearest training image tells unknown images from known ones better than the "
    "Mahalanobis distance, which assumes Gaussian classes.",
    where="abstract and table 1",
    higher_is_better=True,
)
def deep_knn_beats_mahalanobis(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier."""
    return lab.duel(
        ours=DeepKNN, baseline=Mahalanobis, data="digits", metric="auroc", steps=100, batch_size=64
    )
