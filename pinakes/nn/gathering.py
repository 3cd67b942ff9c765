"""Tensors of all processes that train together, so that a loss sees the whole batch."""

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather


def gathered(rows: Float[Tensor, "samples *dims"]) -> Float[Tensor, "all_samples *dims"]:
    """The rows of all processes, in the order of their ranks; gradients flow back to where rows came from.

    Every process must bring equally many. Without other processes the rows come back as they are.

    Args:
        rows: Those of this process.
    """
    if processes() == 1:
        return rows
    return torch.cat(all_gather(rows.contiguous()))


def summed(value: Float[Tensor, "*dims"]) -> Float[Tensor, "*dims"]:
    """The sum over all processes, without gradients.

    Args:
        value: That of this process; left alone.
    """
    total = value.detach().clone()
    if processes() > 1:
        distributed.all_reduce(total)
    return total


def processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return distributed.get_rank() if processes() > 1 else 0
