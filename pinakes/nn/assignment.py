"""Soft assignment of samples to prototypes, balanced so that no prototype gets all."""

import torch
from jaxtyping import Float
from torch import Tensor

from pinakes.nn.gathering import processes, summed


@torch.no_grad()
def sinkhorn_knopp(
    logits: Float[Tensor, "samples prototypes"], iterations: int = 3
) -> Float[Tensor, "samples prototypes"]:
    """Assignments that are as the logits say, and give every prototype the same share of all samples.

    Rows and columns are scaled in turn. The samples of all processes are balanced together; each process must bring
    equally many.

    Args:
        logits: How well each sample fits each prototype, divided by a temperature.
        iterations: How often both are scaled.

    Returns:
        For each sample shares that sum to 1, without gradients.

    Source: Cuturi, Sinkhorn Distances, NeurIPS 2013 (arXiv:1306.0895), algorithm 1; used so by Caron et al.,
        Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020 (arXiv:2006.09882),
        equation 3 and appendix A.

    Example:
        >>> sinkhorn_knopp(torch.tensor([[9.0, 0.0], [9.0, 1.0]]), iterations=50).sum(0).round(decimals=3)
        tensor([1., 1.])
    """
    # in logarithms, so that no logit is too large
    shares = logits.double()
    for _ in range(iterations):
        own = shares.logsumexp(0, keepdim=True)
        middle = summed(own.nan_to_num(neginf=0.0)) / processes()
        shares = shares - middle - summed((own - middle).exp()).log()
        shares = shares - shares.logsumexp(1, keepdim=True)
    return shares.exp().to(logits.dtype)
