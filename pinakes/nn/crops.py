"""Random crops of a batch of images, on its device, drawn from torch's generator."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

PROPORTIONS = (3 / 4, 4 / 3)
"""Least and greatest width of a crop over its height."""


def random_boxes(
    batch: int,
    size: tuple[int, int],
    area: tuple[float, float] = (0.2, 1.0),
    device: torch.device | str = "cpu",
) -> Float[Tensor, "batch 4"]:
    """A box in each image, of random area, proportions and place: x0, y0, x1, y1 as shares of the image's sides.

    Area and the logarithm of the proportions are uniform; a side that would not fit is cut to the image's.

    Args:
        batch: Images.
        size: Their height and width.
        area: Least and greatest area, as shares of the image's.
        device: Of the result.

    Source: Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6; proportions are drawn as torchvision's
        RandomResizedCrop draws them.
    """
    share, slant, x, y = torch.rand(4, batch, device=device)
    share = area[0] + (area[1] - area[0]) * share
    low, high = (math.log(each) for each in PROPORTIONS)
    # of the sides as shares of the image's own, so that the area of a box is their product
    proportion = (low + (high - low) * slant).exp() * size[0] / size[1]
    wide, tall = (share * proportion).sqrt().clamp(max=1), (share / proportion).sqrt().clamp(max=1)
    left, top = x * (1 - wide), y * (1 - tall)
    return torch.stack([left, top, left + wide, top + tall], dim=1)


def cropped(
    image: Float[Tensor, "batch channels height width"],
    boxes: Float[Tensor, "batch 4"],
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch channels rows columns"]:
    """What is in a box of each image, brought to a size bilinearly.

    Args:
        image: Images.
        boxes: x0, y0, x1, y1 as shares of the image's sides.
        size: Height and width of the result; by default those of the images.

    Example:
        >>> image = torch.rand(1, 3, 8, 8)
        >>> torch.allclose(cropped(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]])), image)
        True
        >>> cropped(image, torch.tensor([[0.0, 0.0, 0.5, 1.0]]), (4, 4)).shape
        torch.Size([1, 3, 4, 4])
    """
    (left, top), (right, bottom) = boxes[:, :2].unbind(1), boxes[:, 2:].unbind(1)
    nothing = torch.zeros_like(left)
    rows = torch.stack(
        [right - left, nothing, left + right - 1, nothing, bottom - top, top + bottom - 1], dim=1
    ).view(-1, 2, 3)
    shape = [len(image), image.shape[1], *(size or image.shape[-2:])]
    grid = functional.affine_grid(rows, shape, align_corners=False)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def randomly_cropped(
    image: Float[Tensor, "batch channels height width"],
    area: tuple[float, float] = (0.2, 1.0),
    size: tuple[int, int] | None = None,
) -> Float[Tensor, "batch channels rows columns"]:
    """A random crop of each image, brought to a size.

    Args:
        image: Images.
        area: Least and greatest area of a crop, as shares of the image's.
        size: Height and width of the result; by default those of the images.
    """
    shape = (image.shape[-2], image.shape[-1])
    return cropped(image, random_boxes(len(image), shape, area, image.device).to(image.dtype), size)
