"""Park et al., Understanding the Feature Norm for Out-of-Distribution Detection, ICCV 2023, arXiv:2310.05316.

A classifier's last hidden layer answers known images with longer vectors than unknown ones. The paper shows why: in a
trained network the L1 norm of the layer tends to the largest logit of a classifier that is hidden in it, whose weights
are all 1 or -1. That logit grows with the units that are switched on for a class, and also with those that are switched
off for it; but units behind a rectifier end at 0, and their norm tells nothing of how many those are. The
negative-aware norm (NAN) adds what is missing: how sparse the activation is. It needs neither labels nor training
images.

The equations that the code follows, with a the activation of the last hidden layer:

- (4) `l1_norm`: ||a||_1 = sum_i |a_i|, the conventional norm; table 5 ablates the negative-aware norm to it.
- (9) `active_units`: ||a||_0 = d - |{i: a_i <= 0}|, of d units in all.
- (10) `negative_aware_norm`: ||a||_NAN = ||a||_1 / ||a||_0. Known images have the larger one: the score is -||a||_NAN.
- Section 6.2, `norm_calibrated`: d(x, bank) / ||a||_NAN, with the distance to the k-th nearest training image.

The layer is the paper's choice (end of section 5, figure 6): the last hidden one, on which the classifier's linear
layer acts. In a residual network those are the features after pooling, so that a unit is off if it is off at every
position. The paper's networks end in a rectifier, as the embedded `pinakes/tiny_conv` and timm's ResNets do. Where the
last layer is signed, as in a transformer, (9) and (10) apply as they stand, but do not measure what the paper means.

Differences from the paper: an activation with no unit on has a norm of 0, where (10) is 0 / 0. The distance is that
of Sun et al. (arXiv:2204.06507), as in the paper; the claim takes k = 10, that method's default here. The
combinations with SSD and ReAct are left out, as are models trained without labels.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.papers.anomaly.deep_knn_ood import knn_score, unit_features
from pinakes.papers.anomaly.max_softmax import MaxSoftmax
from pinakes.tasks.base import Prediction

EQUATIONS = (
    ("(9)", r"\lVert a \rVert_0 = d - \lvert \{ i : a_i \le 0 \} \rvert"),
    ("(10)", r"\lVert a \rVert_{\mathrm{NAN}} = \lVert a \rVert_1 \cdot \lVert a \rVert_0^{-1}"),
    ("Section 6.2", r"s = \frac{d(x, X_{\mathrm{bank}})}{\lVert a \rVert_{\mathrm{NAN}}}"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""


def l1_norm(activation: Float[Tensor, "batch units"]) -> Float[Tensor, " batch"]:
    """||a||_1: the conventional norm of an activation, larger for known images.

    Source: equation (4).
    """
    return activation.abs().sum(dim=1)


def active_units(activation: Float[Tensor, "batch units"]) -> Int[Tensor, " batch"]:
    """||a||_0: how many units are above 0.

    Source: equation (9).
    """
    return (activation > 0).sum(dim=1)


def negative_aware_norm(activation: Float[Tensor, "batch units"]) -> Float[Tensor, " batch"]:
    """||a||_NAN: the L1 norm, divided by the number of units above 0; larger for known images.

    Args:
        activation: Of the last hidden layer, behind its rectifier.

    Returns:
        The norms; 0 where no unit is above 0 and all are 0.

    Source: equation (10).

    Example:
        >>> negative_aware_norm(torch.tensor([[3.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
        tensor([2., 1., 0.])
    """
    return l1_norm(activation) / active_units(activation).clamp(min=1)


def norm_calibrated(
    distance: Float[Tensor, " batch"], norm: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """A distance to known images, divided by a feature norm: higher where stranger, finite even for a norm of 0.

    Source: section 6.2.
    """
    return distance / norm.clamp(min=torch.finfo(norm.dtype).eps)


NORMS = {"negative-aware": negative_aware_norm, "l1": l1_norm}


class FeatureNorm(UnknownDetector):
    """Scores images by the norm of a classifier's last hidden layer, alone or with a distance to training images.

    Args:
        norm: "negative-aware", or for comparison "l1", which leaves the sparsity out.
        k: Which nearest training image's distance is divided by the norm; where there are fewer, the farthest. 0 scores
            by the norm alone.
        backbone: Name of the network that is fine-tuned; its last layer should be behind a rectifier.
        learning_rate: Of AdamW.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    bank: Tensor

    def __init__(
        self,
        norm: str = "negative-aware",
        k: int = 0,
        backbone: str = "pinakes/tiny_conv",
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(backbone, learning_rate)
        if norm not in NORMS:
            raise UserError(f"norm: '{norm}' is unknown{suggest(norm, NORMS)}")
        if k < 0:
            raise UserError(f"k: expected 1 or more, or 0 for the norm alone, got {k}")
        self.norm_of = NORMS[norm]
        self.k = k

    def build(self, info: DataInfo) -> None:
        """Makes the classifier and an empty bank."""
        super().build(info)
        self.register_buffer("bank", torch.empty(0, self.classifier.head.in_features))

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the classifier and, for distances, keeps the features of the training images."""
        super().learn(data, plan)
        if self.k > 0:
            self.bank = unit_features(self.features_and_labels(data, plan)[0])

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        activation = self.classifier.features(image)
        norm = self.norm_of(activation)
        if self.k > 0:
            distance = knn_score(unit_features(activation), self.bank, min(self.k, len(self.bank)))
            score = norm_calibrated(distance, norm)
        else:
            score = -norm
        return {"score": score, "label": self.classifier.head(activation).argmax(1)}


@claim(
    text="The negative-aware norm of the last hidden layer tells unknown images from known ones better than its L1 "
    "norm.",
    where="table 5",
    higher_is_better=True,
)
def negative_aware_norm_beats_l1_norm(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier."""
    return lab.duel(
        ours=FeatureNorm,
        baseline=lambda: FeatureNorm(norm="l1"),
        data="digits",
        metric="auroc",
        steps=100,
        batch_size=64,
    )


@claim(
    text="The distance to the k-th nearest training image, divided by the negative-aware norm, tells unknown images "
    "from known ones better than the largest class probability.",
    where="section 6.3 and table 3",
    higher_is_better=True,
)
def norm_with_knn_beats_max_softmax(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier."""
    return lab.duel(
        ours=lambda: FeatureNorm(k=10),
        baseline=MaxSoftmax,
        data="digits",
        metric="auroc",
        steps=100,
        batch_size=64,
    )
