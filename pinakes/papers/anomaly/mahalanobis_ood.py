"""Lee et al., A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks, NeurIPS
2018, arXiv:1807.03888.

The features of a trained classifier are described by one Gaussian for each class, all with the same covariance. An
image is as strange as its features are far from the nearest class mean, in the Mahalanobis distance. Softmax and its
weights play no part.

The equations that the code follows, with f(x) the features of an image:

- (1) `fit_gaussians`: class means mu_c, and the covariance Sigma = 1/N sum_c sum_{i: y_i = c} (f(x_i) - mu_c)
  (f(x_i) - mu_c)^T that all classes share.
- (2) `mahalanobis_score`: M(x) = max_c -(f(x) - mu_c)^T Sigma^-1 (f(x) - mu_c); the score is -M(x).
- (3) `towards_known`: x + eps sign(grad_x M(x)), a small step by which known images come nearer to their class than
  unknown ones do. Optional, with `noise` as eps: the paper chooses eps on unknown images, of which there are none here,
  so that the default of 0 leaves the image as it is.

As in the authors' code (github.com/pokaxpoka/deep_Mahalanobis_detector), f(x) is the mean over the positions of a
feature map, the inverse is a pseudo-inverse, and a noisy image is not clipped. With fewer images than features, the
directions in which known images do not vary are left out.

Differences from the paper: the features are those of the last layer alone. Its ensemble of layers is weighted by a
logistic regression on unknown or adversarial images, which the task does not have.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pinakes.data.base import DataInfo, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.anomaly.base import UnknownDetector
from pinakes.papers.anomaly.max_softmax import MaxSoftmax
from pinakes.tasks.base import Prediction

EQUATIONS = (
    (
        "(1)",
        r"\hat{\mu}_c = \frac{1}{N_c} \sum_{i: y_i = c} f(x_i), \quad \hat{\Sigma} = \frac{1}{N} \sum_c "
        r"\sum_{i: y_i = c} (f(x_i) - \hat{\mu}_c)(f(x_i) - \hat{\mu}_c)^{\top}",
    ),
    (
        "(2)",
        r"M(x) = \max\limits_c -(f(x) - \hat{\mu}_c)^{\top} \hat{\Sigma}^{-1} (f(x) - \hat{\mu}_c)",
    ),
    ("(3)", r"\hat{x} = x + \varepsilon \operatorname{sign}(\nabla_x M(x))"),
)
"""The equations above in LaTeX, for the documentation; each label opens an item of the list."""


class ClassGaussians(NamedTuple):
    """One Gaussian for each class, with a covariance that all share.

    Args:
        means: mu_c, one row for each class.
        whitening: W with W W^T the pseudo-inverse of the covariance; one column for each direction that varies.
    """

    means: Float[Tensor, "classes features"]
    whitening: Float[Tensor, "features directions"]


def fit_gaussians(
    features: Float[Tensor, "images features"], labels: Int[Tensor, " images"], classes: int
) -> ClassGaussians:
    """The Gaussians of the classes.

    Args:
        features: One row for each image.
        labels: Its class, from 0 to classes - 1.
        classes: How many there are.

    Returns:
        The means and a whitening of the shared covariance. Directions whose variance is no more than features x
        epsilon of the largest, with epsilon the precision of the numbers, count as not varying.

    Raises:
        ValueError: If a class has no image.

    Source: equation (1).
    """
    members = functional.one_hot(labels, classes).to(features)
    counts = members.sum(0)
    if not counts.all():
        raise ValueError(
            f"labels: no image of class {int(counts.argmin())}; give some of each of {classes} classes"
        )
    means = (members.T @ features) / counts[:, None]
    centred = features - means[labels]
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(features))
    varying = variances > variances[-1] * len(variances) * torch.finfo(variances.dtype).eps
    return ClassGaussians(means, directions[:, varying] * variances[varying].rsqrt())


def mahalanobis_distances(
    features: Float[Tensor, "batch features"], gaussians: ClassGaussians
) -> Float[Tensor, "batch classes"]:
    """Squared Mahalanobis distances of features to all class means."""
    means, whitening = gaussians
    differences = (features @ whitening)[:, None] - means @ whitening
    return differences.square().sum(dim=2)


def mahalanobis_score(
    features: Float[Tensor, "batch features"], gaussians: ClassGaussians
) -> Float[Tensor, " batch"]:
    """-M: the squared Mahalanobis distance to the nearest class mean, higher where stranger.

    Source: equation (2).

    Example:
        >>> features = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> gaussians = fit_gaussians(features, torch.tensor([0, 0, 1, 1]), classes=2)
        >>> mahalanobis_score(torch.tensor([[1.0], [13.0]]), gaussians)
        tensor([0., 4.])
    """
    return mahalanobis_distances(features, gaussians).amin(dim=1)


def towards_known(
    image: Float[Tensor, "batch channels height width"], score: Callable[[Tensor], Tensor], noise: float
) -> Float[Tensor, "batch channels height width"]:
    """Images after a small step that lowers their score, each by itself.

    Args:
        image: Images in [0, 1]; the result may lie outside by `noise`.
        score: A differentiable score of images, one number each.
        noise: eps, the change of each value.

    Source: equation (3), as M is minus the score.
    """
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(score(image).sum(), image)
    return (image - noise * gradient.sign()).detach()


class Mahalanobis(UnknownDetector):
    """Scores images by the Mahalanobis distance of their features to the nearest class mean.

    Args:
        noise: eps of the step that images make towards their class before they are scored, in units of the image's
            range; 0 for none. The authors' code tries 0 to 0.01.
        backbone: Name of the network that is fine-tuned.
        learning_rate: Of AdamW.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    means: Tensor
    whitening: Tensor

    def __init__(
        self, noise: float = 0.0, backbone: str = "pinakes/tiny_conv", learning_rate: float = 1e-3
    ) -> None:
        super().__init__(backbone, learning_rate)
        if not noise >= 0:
            raise UserError(f"noise: expected 0 or more, got {noise}")
        self.noise = noise

    def build(self, info: DataInfo) -> None:
        """Makes the classifier, and room for the Gaussians."""
        super().build(info)
        width = self.classifier.head.in_features
        self.register_buffer("means", torch.zeros(len(info.classes), width))
        self.register_buffer("whitening", torch.eye(width))

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Trains the classifier and fits the Gaussians to the training images.

        Raises:
            UserError: If a class has no training image.
        """
        super().learn(data, plan)
        features, labels = self.features_and_labels(data, plan)
        try:
            self.means, self.whitening = fit_gaussians(features, labels, len(data.info.classes))
        except ValueError as error:
            raise UserError(f"{data.spec}: {error}") from error

    def score(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        """The scores of images as they are."""
        gaussians = ClassGaussians(self.means, self.whitening)
        return mahalanobis_score(self.classifier.features(image), gaussians)

    def strangeness(self, image: Float[Tensor, "batch channels height width"]) -> Prediction:
        """Scores and classes of images."""
        label = self.classifier(image).argmax(1)
        if self.noise > 0:
            image = towards_known(image, self.score, self.noise)
        return {"score": self.score(image), "label": label}


@claim(
    text="The Mahalanobis distance of a classifier's features tells unknown images from known ones better than its "
    "largest class probability.",
    where="table 1, without input pre-processing and feature ensemble",
    higher_is_better=True,
)
def mahalanobis_beats_max_softmax(lab: Lab) -> Trial:
    """Handwritten digits, three of ten left out, and materials as far images; both sides train the same classifier."""
    return lab.duel(
        ours=Mahalanobis, baseline=MaxSoftmax, data="digits", metric="auroc", steps=100, batch_size=64
    )
