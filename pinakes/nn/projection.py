"""Heads between an encoder and a loss, which are dropped once the encoder has learnt."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def projection_head(widths: Sequence[int], last_norm: bool = False) -> nn.Sequential:
    """Linear layers with batch normalisation and ReLU between them.

    Args:
        widths: Of the input, of each hidden layer and of the output.
        last_norm: Whether the output is normalised too, without weights of its own.

    Example:
        >>> [type(layer).__name__ for layer in projection_head([64, 128, 32])]
        ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths[:-1]):
        layers += [nn.Linear(inner, outer, bias=False), nn.BatchNorm1d(outer), nn.ReLU(inplace=True)]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=not last_norm))
    if last_norm:
        layers.append(nn.BatchNorm1d(widths[-1], affine=False))
    return nn.Sequential(*layers)
