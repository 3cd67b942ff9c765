"""Contrastive losses: each sample is to find its own among those of all others."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pinakes.nn.gathering import gathered, rank


def nt_xent_loss(
    one: Float[Tensor, "batch width"], other: Float[Tensor, "batch width"], temperature: float = 0.5
) -> Float[Tensor, ""]:
    """The normalised temperature-scaled cross-entropy: each view is to find the other one of its image among all views.

    The views of all processes are candidates, so that processes that share their gradients take the step of one with
    the joint batch.

    Args:
        one: Projections of a view of each image.
        other: Those of another view of the same images.
        temperature: What cosines are divided by, above 0.

    Source: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020
        (arXiv:2002.05709), equation 1.

    Example:
        >>> views = torch.eye(4)
        >>> nt_xent_loss(views, views, temperature=0.1) < nt_xent_loss(views, views.flip(0), temperature=0.1)
        tensor(True)
    """
    own = functional.normalize(torch.stack([one, other]), dim=2)
    every = torch.stack([gathered(own[0]), gathered(own[1])]).flatten(0, 1)
    batch, joint = len(one), len(every) // 2
    place = rank() * batch + torch.arange(batch, device=one.device)
    logits = own.flatten(0, 1) @ every.T / temperature
    itself, partner = torch.cat([place, joint + place]), torch.cat([joint + place, place])
    logits = logits.scatter(1, itself[:, None], -torch.inf)
    return functional.cross_entropy(logits, partner)


def info_nce_loss(
    query: Float[Tensor, "batch width"], key: Float[Tensor, "batch width"], temperature: float = 0.2
) -> Float[Tensor, ""]:
    """Each query is to find its own key among those of all samples and all processes.

    Args:
        query: One a sample.
        key: Of the same samples, in the same order.
        temperature: What cosines are divided by, above 0.

    Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018 (arXiv:1807.03748),
        equation 4.
    """
    query = functional.normalize(query, dim=1)
    keys = gathered(functional.normalize(key, dim=1))
    place = rank() * len(query) + torch.arange(len(query), device=query.device)
    return functional.cross_entropy(query @ keys.T / temperature, place)
