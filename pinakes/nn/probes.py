"""Probes: how much frozen features know, by classifiers and regressors that are fitted in seconds.

All work on features that were computed once, on the device where these are, and hold what scikit-learn's own give.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

CHUNK = 1024
"""Queries that are compared with all neighbours at a time."""
STEPS = 300
"""Most iterations of L-BFGS."""


def nearest(
    query: Float[Tensor, "queries width"], features: Float[Tensor, "samples width"], k: int
) -> tuple[Float[Tensor, "queries k"], Int[Tensor, "queries k"]]:
    """The cosine similarity and the places of the k nearest samples of each query, the nearest first.

    Memory is bounded: a thousand queries are compared at a time.

    Args:
        query: What is looked for.
        features: Where it is looked for.
        k: How many are found, at most as many as there are samples.

    Example:
        >>> nearest(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [2.0, 0.1]]), 1)[1]
        tensor([[1]])
    """
    known = functional.normalize(features, dim=1).mT
    found = [(functional.normalize(part, dim=1) @ known).topk(k, dim=1) for part in query.split(CHUNK)]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def nearest_neighbour_classes(
    query: Float[Tensor, "queries width"],
    features: Float[Tensor, "samples width"],
    label: Int[Tensor, " samples"],
    k: int = 20,
) -> Int[Tensor, " queries"]:
    """The most frequent class among the k nearest samples by cosine; of equally frequent ones the first.

    Args:
        query: Features whose class is asked for.
        features: Those of the samples whose class is known.
        label: Their classes, from 0.
        k: How many neighbours are asked; all, if there are fewer.
    """
    _, place = nearest(query, features, min(k, len(features)))
    votes = functional.one_hot(label[place], int(label.max()) + 1).sum(1)
    return votes.argmax(1)


@dataclass(frozen=True)
class Scaling:
    """How features are brought to mean 0 and variance 1, as on the samples that a probe was fitted on.

    Args:
        mean: (width).
        deviation: (width); 1 where a feature does not vary.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Float[Tensor, "samples width"]) -> "Scaling":
        """The scaling of these samples."""
        deviation, mean = torch.std_mean(features.double(), dim=0, correction=0)
        return cls(mean, torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation)))

    def __call__(self, features: Float[Tensor, "samples width"]) -> Float[Tensor, "samples width"]:
        """Scaled features, in double precision."""
        return (features.double() - self.mean) / self.deviation


@dataclass(frozen=True)
class LinearProbe:
    """A linear map of scaled features.

    Args:
        scaling: Of the features.
        weight: (width, outputs).
        bias: (outputs).
    """

    scaling: Scaling
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Float[Tensor, "samples width"]) -> Float[Tensor, "samples outputs"]:
        """Logits of classes, or the regressed values."""
        return self.scaling(features) @ self.weight + self.bias


def fitted_classifier(
    features: Float[Tensor, "samples width"],
    target: Int[Tensor, " samples"] | Float[Tensor, "samples classes"],
    classes: int,
    strength: float = 1.0,
) -> LinearProbe:
    """Multinomial logistic regression on scaled features, by L-BFGS in double precision.

    It minimises the sum of the cross-entropies times `strength` plus half the squared weights, as scikit-learn's
    LogisticRegression(C=strength) does.

    Args:
        features: Of the samples.
        target: Their classes, from 0, or the probability of each class.
        classes: How many classes there are.
        strength: C, above 0; the larger, the less the weights are held small.
    """
    scaling = Scaling.of(features)
    scaled = scaling(features)
    sought = functional.one_hot(target, classes) if target.ndim == 1 else target
    sought = sought.to(scaled.dtype)
    # one vector of all numbers; the objective is divided by the samples, which leaves its minimum where it is
    numbers = torch.zeros(scaled.shape[1] + 1, classes, dtype=scaled.dtype, device=scaled.device)
    numbers.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [numbers],
        max_iter=STEPS,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        logits = scaled @ numbers[:-1] + numbers[-1]
        loss = functional.cross_entropy(logits, sought)
        loss = loss + numbers[:-1].square().sum() / (2 * strength * len(scaled))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(objective)
    found = numbers.detach()
    return LinearProbe(scaling, found[:-1], found[-1])


def fitted_regressor(
    features: Float[Tensor, "samples width"],
    target: Float[Tensor, "samples outputs"],
    ridge: float = 1.0,
) -> LinearProbe:
    """Ridge regression on scaled features, in closed form and double precision, as scikit-learn's Ridge(alpha=ridge).

    Args:
        features: Of the samples.
        target: What is to be said of each.
        ridge: Weight of the squared weights beside the sum of the squared errors, above 0.
    """
    scaling = Scaling.of(features)
    scaled = scaling(features)
    middle = target.double().mean(0)
    gram = scaled.mT @ scaled
    gram.diagonal().add_(ridge)
    weight = torch.linalg.solve(gram, scaled.mT @ (target.double() - middle))
    return LinearProbe(scaling, weight, middle)
