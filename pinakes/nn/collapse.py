"""Signs that a representation collapses, or that it spreads well, read from a batch of embeddings."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def effective_rank(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """How many directions embeddings use: exp of the entropy of their singular values' shares, 1 to the width.

    Args:
        embedding: Of several images, at least two.

    Source: Garrido et al., RankMe, ICML 2023 (arXiv:2210.02885), equation 1; centred here, so that a common offset
        does not count as a direction.

    Example:
        >>> effective_rank(torch.eye(4)).round(decimals=3)
        tensor(3.)
    """
    values = torch.linalg.svdvals((embedding - embedding.mean(0)).float())
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(share).sum().exp()


def spread(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """The deviation of the normalised embeddings in each dimension, averaged, times the root of the width.

    It is about 1 for embeddings that fill the sphere evenly, and 0 if all are one.

    Source: Chen and He, Exploring Simple Siamese Representation Learning, CVPR 2021 (arXiv:2011.10566), section 4.1.
    """
    normal = functional.normalize(embedding.float(), dim=1)
    return normal.std(0, correction=0).mean() * embedding.shape[1] ** 0.5


def alignment(one: Float[Tensor, "batch width"], other: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """How far two views of the same images lie apart: the mean squared distance on the sphere, 0 to 4; low is good.

    Source: Wang and Isola, Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere, ICML 2020 (arXiv:2005.10242), equation 1 with alpha 2.
    """
    one, other = (functional.normalize(each.float(), dim=1) for each in (one, other))
    return (one - other).square().sum(1).mean()


def uniformity(embedding: Float[Tensor, "batch width"]) -> Float[Tensor, ""]:
    """How evenly embeddings fill the sphere: log of the mean of exp(-2 squared distance), at most 0; low is good.

    Source: Wang and Isola, as above, equation 2 with t 2.
    """
    normal = functional.normalize(embedding.float(), dim=1)
    return torch.pdist(normal).square().mul(-2).exp().mean().log()


def leave_one_out_accuracy(
    embedding: Float[Tensor, "samples width"], label: Int[Tensor, " samples"], k: int = 20
) -> Float[Tensor, ""]:
    """The share of samples whose class is the most frequent one among their k nearest others by cosine.

    Args:
        embedding: Of the samples.
        label: Their classes, from 0.
        k: How many neighbours are asked; all others, if there are fewer.
    """
    normal = functional.normalize(embedding.float(), dim=1)
    likeness = (normal @ normal.T).fill_diagonal_(-torch.inf)
    place = likeness.topk(min(k, len(label) - 1), dim=1).indices
    votes = functional.one_hot(label[place], int(label.max()) + 1).sum(1)
    return (votes.argmax(1) == label).float().mean()
