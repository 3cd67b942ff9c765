"""Maps of pixels against SciPy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from pinakes.nn.maps import smoothed_map


@pytest.mark.parametrize(
    ("size", "sigma"), [((64, 64), 3.0), ((40, 72), 4.0), ((8, 8), 1.0), ((20, 20), 0.0)]
)
def test_a_map_is_upsampled_and_smoothed_by_a_gaussian(size: tuple[int, int], sigma: float) -> None:
    patches = torch.rand(2, 8, 8)
    found = smoothed_map(patches, size, sigma)
    upsampled = torch.nn.functional.interpolate(patches[:, None], size=size, mode="bilinear")[:, 0].numpy()
    radius = min(int(4 * sigma + 0.5), min(size) - 1)
    expected = [
        gaussian_filter(each, sigma, mode="mirror", radius=radius) if sigma else each for each in upsampled
    ]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-5)
