"""A network that follows another slowly: the teacher, or target, of methods that learn from their own past."""

import copy
import math

import torch
from torch import Tensor, nn


class MomentumCopy(nn.Module):
    """A copy of a network whose weights are the moving average of the other's.

    It is never trained, and stays in evaluation or training mode as its owner is.

    Args:
        network: What is copied.

    Example:
        >>> online = nn.Linear(2, 2)
        >>> target = MomentumCopy(online)
        >>> target.follow(online, momentum=0.99)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)

    def forward(self, *inputs: Tensor | None, **options: Tensor) -> Tensor:
        """What the copy says, without gradients."""
        with torch.no_grad():
            answer: Tensor = self.network(*inputs, **options)
        return answer

    @torch.no_grad()
    def follow(self, network: nn.Module, momentum: float) -> None:
        """Takes a step towards another network's weights; what is no weight, such as batch statistics, is taken over.

        Args:
            network: Of the same form.
            momentum: The share of its own weights that it keeps, 0 to 1.
        """
        own = [each.detach() for each in self.network.parameters()]
        others = [each.detach() for each in network.parameters()]
        torch._foreach_lerp_(own, others, 1 - momentum)
        for mine, other in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(other)


def momentum_at(done: float, base: float) -> float:
    """The momentum rises from `base` to 1 as half a cosine.

    Args:
        done: The share of training that is done, 0 to 1.
        base: At the start, 0 to 1.

    Source: Grill et al., Bootstrap your own latent, NeurIPS 2020 (arXiv:2006.07733), section 3.2.

    Example:
        >>> [round(momentum_at(done, 0.9), 3) for done in (0.0, 0.5, 1.0)]
        [0.9, 0.95, 1.0]
    """
    return 1 - (1 - base) * (math.cos(math.pi * done) + 1) / 2
