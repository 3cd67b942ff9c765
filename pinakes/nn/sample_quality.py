"""How near generated samples are to real ones, from features of both: distances of distributions, and shares of samples
that lie where the others are.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CHUNK = 1024
"""Rows that are compared with all others at a time."""


def frechet_distance(
    real: Float[Tensor, "samples width"], made: Float[Tensor, "others width"]
) -> Float[Tensor, ""]:
    """The Fréchet distance of two normal distributions with the means and covariances of the features; low is good.

    It grows as samples become fewer, so numbers compare only at equal counts.

    Args:
        real: Features of real samples, two or more.
        made: Those of generated ones, two or more.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS
        2017 (arXiv:1706.08500), equation 6: FID, where the features are those of an Inception network.

    Example:
        >>> rows = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(rows, rows + 3).round(decimals=4)
        tensor(9., dtype=torch.float64)
    """
    (mean, covariance), (other_mean, other_covariance) = (_moments(each) for each in (real, made))
    root = _root(covariance)
    # the trace of the root of a product is that of a symmetric matrix with the same eigenvalues
    values = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp(min=0)
    traces = covariance.trace() + other_covariance.trace() - 2 * values.sqrt().sum()
    return (mean - other_mean).square().sum() + traces


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.double()
    return rows.mean(0), torch.atleast_2d(torch.cov(rows.mT))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def kernel_distance(
    real: Float[Tensor, "samples width"], made: Float[Tensor, "others width"]
) -> Float[Tensor, ""]:
    """The squared maximum mean discrepancy of the features with a cubic kernel, unbiased; low is good, and below 0 is
    chance.

    Args:
        real: Features of real samples, two or more.
        made: Those of generated ones, two or more.

    Source: Bińkowski et al., Demystifying MMD GANs, ICLR 2018 (arXiv:1801.01401), section 4: KID, here with all samples
        at once in place of averages over some of them.
    """
    real, made = real.double(), made.double()
    inside = [_kernel_sum(rows, rows, apart=True) / (len(rows) * (len(rows) - 1)) for rows in (real, made)]
    between = _kernel_sum(real, made, apart=False) / (len(real) * len(made))
    return inside[0] + inside[1] - 2 * between


def _kernel_sum(rows: Tensor, others: Tensor, apart: bool) -> Tensor:
    total = rows.new_zeros(())
    for part in rows.split(CHUNK):
        total = total + (part @ others.mT / rows.shape[1] + 1).pow(3).sum()
    if apart:
        total = total - (rows.square().sum(1) / rows.shape[1] + 1).pow(3).sum()
    return total


def precision_and_recall(
    real: Float[Tensor, "samples width"], made: Float[Tensor, "others width"], k: int = 3
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The share of generated samples that lie among real ones, and of real ones that lie among generated ones.

    A sample lies among others if it is no further from one of them than that one's k-th nearest other.

    Args:
        real: Features of real samples, more than k.
        made: Those of generated ones, more than k.
        k: Which neighbour.

    Source: Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models, NeurIPS 2019
        (arXiv:1904.06991), equations 1 and 2.
    """
    return _among(made, real, k).any(1).double().mean(), _among(real, made, k).any(1).double().mean()


def density_and_coverage(
    real: Float[Tensor, "samples width"], made: Float[Tensor, "others width"], k: int = 5
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Among how many real samples a generated one lies, over k; and the share of real ones with a generated one near.

    Args:
        real: Features of real samples, more than k.
        made: Those of generated ones.
        k: Which neighbour's distance says what is near.

    Source: Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models, ICML 2020 (arXiv:2002.09797),
        section 3.
    """
    near = _among(made, real, k)
    return near.sum(1).double().mean() / k, near.any(0).double().mean()


def _among(asked: Tensor, known: Tensor, k: int) -> Bool[Tensor, "asked known"]:
    """Whether a row is no further from a known one than that one's k-th nearest other."""
    if len(known) <= k:
        raise ValueError(f"k: expected fewer than the {len(known)} samples, got {k}")
    # the nearest of all is the row itself
    reach = torch.cat([_distances(part, known).kthvalue(k + 1, dim=1).values for part in known.split(CHUNK)])
    return torch.cat([_distances(part, known) <= reach for part in asked.split(CHUNK)])


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(rows.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")
