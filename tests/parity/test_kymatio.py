"""The scattering transform against Kymatio, which takes 3.1415 for pi."""

import pytest
import torch

from pinakes.nn.scattering import Scattering

pytest.importorskip("kymatio")


@pytest.mark.parametrize(
    ("size", "scales", "angles"),
    [
        ((32, 32), 2, 8),
        ((33, 48), 3, 6),
        ((16, 20), 1, 4),
        ((24, 24), 2, 5),
        ((64, 64), 4, 8),
        ((17, 17), 2, 1),
    ],
)
def test_coefficients_are_those_of_kymatio(size: tuple[int, int], scales: int, angles: int) -> None:
    # kymatio.torch imports what SciPy no longer has, for its transform of volumes
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = ScatteringTorch2D(J=scales, shape=size, L=angles)(image)
    torch.testing.assert_close(Scattering(size, scales, angles)(image), expected, rtol=1e-4, atol=1e-5)
