"""Maps of pixels from maps of patches."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def smoothed_map(
    patch_scores: Float[Tensor, "batch rows columns"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "batch height width"]:
    """Patch scores as a map of the image: upsampled bilinearly to `size`, then smoothed by a Gaussian.

    Both steps are linear and go along one axis after the other, so each axis takes one product with a matrix.

    Args:
        patch_scores: One score for each patch position.
        size: Height and width of the map in pixels.
        sigma: Standard deviation of the Gaussian in pixels; 0 leaves the map as it is. The Gaussian ends at four
            standard deviations, or before it would be wider than the map, whose borders reflect.
    """
    radius = min(int(4 * sigma + 0.5), min(size) - 1)
    rows, columns = (
        _upsample_and_smooth(patch_scores, length, to, sigma, radius)
        for length, to in zip(patch_scores.shape[-2:], size, strict=True)
    )
    return rows @ (patch_scores @ columns.T)


def _upsample_and_smooth(like: Tensor, length: int, to: int, sigma: float, radius: int) -> Tensor:
    """The matrix (to, length) that upsamples `length` values linearly to `to` and smooths them."""
    impulses = torch.eye(length, device=like.device, dtype=like.dtype)[:, None]
    upsampled = functional.interpolate(impulses, size=to, mode="linear", align_corners=False)
    if sigma > 0:
        steps = torch.arange(-radius, radius + 1, device=like.device, dtype=like.dtype)
        kernel = (-(steps**2) / (2 * sigma**2)).softmax(0)
        reflected = functional.pad(upsampled, (radius, radius), mode="reflect")
        upsampled = functional.conv1d(reflected, kernel.view(1, 1, -1))
    return upsampled[:, 0].T
