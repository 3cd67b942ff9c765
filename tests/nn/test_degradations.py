"""Degradations against closed forms."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from pinakes.nn.degradations import (
    DEGRADATIONS,
    blurred,
    degraded,
    downsampled,
    kept_columns,
    noisy,
    zero_filled,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(channels: int = 3, size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    return torch.rand(channels, *size, generator=seeded(0))


@pytest.mark.parametrize("kind", DEGRADATIONS)
@pytest.mark.parametrize("size", [(3, 5), (16, 16), (33, 20)])
def test_a_degraded_image_is_another_one_of_the_same_form(kind: str, size: tuple[int, int]) -> None:
    image = picture(size=size)
    before = image.clone()
    found = degraded(kind, image, seeded(1))
    assert found.shape == image.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert not torch.allclose(found, image, atol=0.01)
    assert torch.equal(image, before)
    assert torch.equal(found, degraded(kind, image, seeded(1)))


def test_downsampling_is_near_that_of_pillow() -> None:
    image = picture(1)
    small = Image.fromarray(image[0].numpy()).resize((8, 6), Image.Resampling.BICUBIC)
    shrunk = torch.nn.functional.interpolate(image[None], (6, 8), mode="bicubic", antialias=True)
    assert np.allclose(shrunk[0, 0].numpy(), np.array(small), atol=1e-4)
    again = torch.nn.functional.interpolate(shrunk, (24, 32), mode="bicubic")[0]
    assert torch.equal(downsampled(image, 4), again)


def test_a_constant_image_survives_all_but_noise() -> None:
    image = torch.full((1, 16, 16), 0.5)
    for kind in DEGRADATIONS:
        if kind != "noise":
            assert torch.allclose(degraded(kind, image, seeded(0)), image, atol=1e-5), kind


def test_the_blur_is_that_of_scipy() -> None:
    image = picture(1)
    expected = ndimage.gaussian_filter(image[0].numpy(), 2.0, mode="mirror", radius=6)
    assert np.allclose(blurred(image, 2.0)[0].numpy(), expected, atol=1e-5)


def test_noise_has_the_stated_deviation() -> None:
    image = torch.full((3, 64, 64), 0.5)
    assert (noisy(image, 0.2, seeded(0)) - image).std().item() == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize("width", [8, 16, 33, 64])
def test_a_quarter_of_the_columns_is_kept_with_the_middle(width: int) -> None:
    drawn = torch.stack([kept_columns(width, seeded(seed)) for seed in range(50)])
    assert (drawn.sum(1) == max(1, round(width / 4))).all()
    assert drawn[:, width // 2].all()
    assert (drawn.any(0)).all()


def test_missing_columns_are_missing_frequencies_along_the_width() -> None:
    width = 16
    columns = torch.arange(width) * 2 * torch.pi / width
    image = (0.5 + 0.2 * columns.cos() + 0.1 * (3 * columns).cos()).expand(1, 8, width)
    kept = torch.ones(width, dtype=torch.bool)
    kept[[width // 2 - 3, width // 2 + 3]] = False
    expected = (0.5 + 0.2 * columns.cos()).expand(1, 8, width)
    assert torch.allclose(zero_filled(image, kept), expected, atol=1e-5)
    assert torch.allclose(zero_filled(image, torch.ones(width, dtype=torch.bool)), image, atol=1e-5)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind: expected one of downsample4"):
        degraded("rain", picture(), seeded(0))
