"""What the detectors of this shelf share."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

from pinakes.method import Method


class Detector(Method):
    """A method for the task `anomaly`: fitted on normal images, it scores images and, mostly, their pixels."""

    task_name = "anomaly"
    min_size = 32


def smoothed_map(
    patch_scores: Float[Tensor, "batch rows columns"], size: tuple[int, int], sigma: float
) -> Float[Tensor, "batch height width"]:
    """Patch scores as a map of the image: upsampled bilinearly to `size`, then smoothed by a Gaussian.

    Args:
        patch_scores: One score for each patch position.
        size: Height and width of the map in pixels.
        sigma: Standard deviation of the Gaussian in pixels; 0 leaves the map as it is.
    """
    upsampled = functional.interpolate(patch_scores[:, None], size=size, mode="bilinear", align_corners=False)
    if sigma > 0:
        radius = min(int(4 * sigma + 0.5), min(size) - 1)
        upsampled = gaussian_blur(upsampled, kernel_size=[2 * radius + 1] * 2, sigma=[sigma] * 2)
    return torch.squeeze(upsampled, 1)
