"""Random changes of a batch of images, on its device, drawn from torch's generator."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def shifted(
    image: Float[Tensor, "batch channels height width"], share: float = 1 / 8
) -> Float[Tensor, "batch channels height width"]:
    """Moves each image by its own whole number of pixels; its border is repeated where nothing was.

    Args:
        image: Images.
        share: The largest move, as a share of the shorter side.

    Example:
        >>> shifted(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    batch, channels, height, width = image.shape
    reach = int(share * min(height, width))
    if reach == 0:
        return image
    padded = functional.pad(image, (reach,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * reach + 1, (2, batch), device=image.device)
    rows = (down[:, None] + torch.arange(height, device=image.device))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width, device=image.device))[:, None, None, :]
    samples = torch.arange(batch, device=image.device)[:, None, None, None]
    planes = torch.arange(channels, device=image.device)[None, :, None, None]
    return padded[samples, planes, rows, columns]


def flipped(
    image: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Mirrors each image left to right, or not, by the toss of a coin."""
    heads = torch.rand(len(image), 1, 1, 1, device=image.device) < 0.5
    return torch.where(heads, image.flip(-1), image)


def mixed(
    image: Float[Tensor, "batch channels height width"], share: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels height width"]:
    """Each image blended with the one before it in the batch.

    Args:
        image: Images.
        share: How much of each image itself is kept, 0 to 1.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018 (arXiv:1710.09412), section 2.
    """
    kept = share.view(-1, 1, 1, 1)
    return kept * image + (1 - kept) * image.roll(1, 0)
