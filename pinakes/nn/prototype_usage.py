"""How much of collections of images prototypes take, and how much more of the one than of the other."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_shares(
    prototype: Int[Tensor, "images tokens"], prototypes: int
) -> Float[Tensor, "images prototypes"]:
    """The share of each image's tokens that every prototype has; sums to 1 for each image.

    Args:
        prototype: The prototype of each token, from 0.
        prototypes: How many there are.

    Example:
        >>> token_shares(torch.tensor([[0, 0, 2, 0]]), 3)
        tensor([[0.7500, 0.0000, 0.2500]])
    """
    one = torch.full(prototype.shape, 1 / prototype.shape[1], device=prototype.device)
    return one.new_zeros(len(prototype), prototypes).scatter_add_(1, prototype, one)


def specificity(
    first: Float[Tensor, " prototypes"], second: Float[Tensor, " prototypes"], counts: tuple[int, int]
) -> Float[Tensor, " prototypes"]:
    """(a - b) / (a + b) for the shares a and b of two collections that prototypes take, half an image added to both.

    It is 1 if only the first has a prototype, -1 if only the second has, and 0 if both have as much, or none.

    Args:
        first: How much of the first collection each takes: the mean of its shares of the images.
        second: Likewise of the second.
        counts: How many images the two have.

    Example:
        >>> specificity(torch.tensor([0.5, 0.25]), torch.tensor([0.5, 0.0]), (100, 100)).round(decimals=2)
        tensor([0.0000, 0.9600])
    """
    one, other = _with_half_an_image(first, second, counts)
    return (one - other) / (one + other)


def information(
    first: Float[Tensor, " prototypes"], second: Float[Tensor, " prototypes"], counts: tuple[int, int]
) -> Float[Tensor, " prototypes"]:
    """a log2(a / b), in bits: what each prototype adds to the divergence of one collection from another.

    It is large for prototypes that take much of the first and little of the second.

    Args:
        first: As for `specificity`.
        second: Likewise.
        counts: Likewise.
    """
    one, other = _with_half_an_image(first, second, counts)
    return one * (one / other).log2()


def _with_half_an_image(first: Tensor, second: Tensor, counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Shares with half an image added, so that none is 0, and few images tell less."""
    one, other = (
        (share * count + 0.5) / (count + 1) for share, count in zip((first, second), counts, strict=True)
    )
    return one, other
