"""Anomalous training images: pseudo ones made of normal images, and few labelled ones shown as often as normal ones."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pinakes.data.base import SampleSet
from pinakes.data.views import chosen, labels_of

LUMINANCE = (0.299, 0.587, 0.114)
CHROMINANCE = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
"""The rows I and Q of the colour space YIQ; `LUMINANCE` is Y."""


def cutmix(
    image: Float[Tensor, "batch channels height width"],
    *,
    area: tuple[float, float] = (0.02, 0.15),
    aspect: float = 0.3,
    jitter: float = 0.1,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "batch channels height width"], Bool[Tensor, "batch height width"]]:
    """Pastes a rectangle of each image, its colours jittered, at another place of the same image.

    Args:
        image: Normal images in [0, 1].
        area: The least and the largest share of the image that the rectangle covers.
        aspect: The least ratio of its width to its height; the largest is one over it.
        jitter: How far brightness, contrast and saturation may change, as shares, and hue, as a share of a full turn.
            One channel has neither saturation nor hue.
        generator: Source of the draws, on the images' device.

    Returns:
        The pseudo anomalies in [0, 1], and where the rectangles lie.

    Source: Ding et al., Catching Both Gray and Black Swans, CVPR 2022, equation (4); ranges from its released code.

    Example:
        >>> pseudo, mask = cutmix(torch.rand(4, 3, 32, 32))
        >>> pseudo.shape, mask.shape
        (torch.Size([4, 3, 32, 32]), torch.Size([4, 32, 32]))
    """
    batch, _, rows, columns = image.shape
    draws = torch.rand(10, batch, generator=generator, device=image.device, dtype=image.dtype)
    pixels = rows * columns * (area[0] + (area[1] - area[0]) * draws[0])
    ratio = torch.exp((2 * draws[1] - 1) * math.log(aspect))
    down, from_row = _placed((pixels / ratio).sqrt(), rows, draws[2], draws[3])
    across, from_column = _placed((pixels * ratio).sqrt(), columns, draws[4], draws[5])
    mask = down[:, :, None] & across[:, None, :]
    of_image = torch.arange(batch, device=image.device)[:, None, None]
    patch = image[of_image, :, from_row[:, :, None], from_column[:, None, :]].movedim(-1, 1)
    return torch.where(mask[:, None], _jittered(patch, mask, jitter * (2 * draws[6:] - 1)), image), mask


def _placed(
    length: Float[Tensor, " batch"],
    side: int,
    source: Float[Tensor, " batch"],
    target: Float[Tensor, " batch"],
) -> tuple[Tensor, Tensor]:
    """Along one side: which positions the rectangle covers at its new place, and from which ones it was cut."""
    length = length.round().clamp(1, side)
    start, end = ((draw * (side - length + 1)).floor().clamp(max=side - 1) for draw in (source, target))
    offset = torch.arange(side, device=length.device) - end[:, None]
    inside = (offset >= 0) & (offset < length[:, None])
    return inside, (offset + start[:, None]).clamp(0, side - 1).long()


def _jittered(
    patch: Float[Tensor, "batch channels height width"],
    mask: Bool[Tensor, "batch height width"],
    change: Float[Tensor, "4 batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Brightness, contrast, saturation and hue of what lies in the mask, changed in this order."""
    brightness, contrast, saturation, hue = change[..., None, None, None]
    weights = patch.new_tensor(LUMINANCE)
    colour = patch.shape[1] == 3
    patch = ((1 + brightness) * patch).clamp(0, 1)
    grey = torch.einsum("c,bchw->bhw", weights, patch) if colour else patch.mean(1)
    mean = ((grey * mask).sum((1, 2)) / mask.sum((1, 2)))[:, None, None, None]
    patch = (mean + (1 + contrast) * (patch - mean)).clamp(0, 1)
    if not colour:
        return patch
    grey = torch.einsum("c,bchw->bhw", weights, patch)[:, None]
    patch = (grey + (1 + saturation) * (patch - grey)).clamp(0, 1)
    return torch.einsum("bij,bjhw->bihw", _hue_rotation(2 * math.pi * hue.flatten()), patch).clamp(0, 1)


def _hue_rotation(angle: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    """What turns the chrominance of a colour by an angle, and leaves its luminance."""
    to_yiq = angle.new_tensor((LUMINANCE, *CHROMINANCE))
    zero, one, cosine, sine = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    rows = [(one, zero, zero), (zero, cosine, -sine), (zero, sine, cosine)]
    turn = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def balanced(samples: SampleSet) -> SampleSet:
    """The samples, the anomalous ones repeated until there are as many as normal ones.

    Shuffled batches then hold as many of both in expectation, however few anomalous images there are. Samples of one
    label only are returned as they are.

    Args:
        samples: Training images with labels 0 (normal) and 1.
    """
    labels = labels_of(samples)
    normal = [index for index, label in enumerate(labels) if not label]
    anomalous = [index for index, label in enumerate(labels) if label]
    if not anomalous or len(anomalous) >= len(normal):
        return samples
    return chosen(samples, normal + [anomalous[place % len(anomalous)] for place in range(len(normal))])
