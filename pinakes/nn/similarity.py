"""How alike two networks see the same images."""

import torch
from jaxtyping import Float
from torch import Tensor


def linear_cka(one: Float[Tensor, "batch ..."], other: Float[Tensor, "batch ..."]) -> Float[Tensor, ""]:
    """How alike two layers arrange the same images: linear centred kernel alignment, 0 to 1.

    It does not change when either is rotated or scaled, and their widths may differ.

    Args:
        one: The outputs of a layer, one image a row; further dimensions are flattened.
        other: Those of another.

    Returns:
        The alignment; 0 where a layer says the same of every image.

    Source: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019 (arXiv:1905.00414),
        equation 3 with the kernels of section 3.

    Example:
        >>> features = torch.rand(8, 5)
        >>> linear_cka(features, 3 * features.flip(1)).round(decimals=4)
        tensor(1.)
    """
    return (_centred_gram(one) * _centred_gram(other)).sum()


def _centred_gram(features: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    """H X X^T H at unit norm; scaled before the product as well, so that half precision does not overflow."""
    rows = features.flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    rows = rows - rows.mean(0)
    least = torch.finfo(rows.dtype).tiny ** 0.5
    rows = rows / rows.norm().clamp(min=least)
    gram = rows @ rows.T
    return gram / gram.norm().clamp(min=least)
