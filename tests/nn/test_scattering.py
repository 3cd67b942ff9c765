import math

import pytest
import torch

from pinakes.nn.scattering import Scattering, gabor, morlet


def picture(seed: int = 0, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    noise = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, size, mode="bicubic")


def test_gaussian_sums_to_one_and_waves_to_nothing() -> None:
    assert gabor((40, 48), sigma=1.6).sum().real == pytest.approx(1, abs=1e-6)
    assert morlet((40, 48), 1.6, 0.4, 0.75 * math.pi / 2, 0.5).sum().abs() < 1e-12


def test_a_wave_is_answered_by_the_filter_of_its_frequency() -> None:
    size, sigma, frequency, slant = (64, 64), 1.6, 0.75 * math.pi / 2, 0.5
    psi = torch.fft.fft2(morlet(size, sigma, 0.0, frequency, slant))
    assert psi.imag.abs().max() < 1e-9
    rows, columns = (psi.real == psi.real.max()).nonzero()[0].tolist()
    assert columns == 0
    assert 2 * math.pi * rows / 64 == pytest.approx(frequency, abs=2 * math.pi / 64)


def test_an_even_image_has_a_mean_and_nothing_else() -> None:
    found = Scattering((24, 32), scales=3, angles=4)(torch.full((1, 2, 24, 32), 0.7))
    torch.testing.assert_close(found[:, :, 0], torch.full((1, 2, 3, 4), 0.7))
    assert found[:, :, 1:].abs().max() < 1e-6


def test_a_plane_wave_is_as_strong_as_the_filter_says() -> None:
    scattering = Scattering((64, 64), scales=2, angles=4)
    side = len(scattering.get_buffer("psi_0")[0])
    turns = 9
    rows = torch.arange(64) + scattering.borders[2]
    image = torch.cos(2 * math.pi * turns * rows / side)[:, None].expand(64, 64)[None, None].contiguous()
    first = scattering(image)[0, 0, 1 : 1 + 4 * 2, 4:-4, 4:-4]
    filters = torch.cat([scattering.get_buffer(f"psi_{scale}") for scale in range(2)])
    # half of a cosine turns one way, and half the other way; where they meet depends on the place
    phase = 2 * math.pi * turns * torch.arange(side)[:, None] / side
    there, back = (torch.polar(filters[:, way, 0].abs(), way / turns * phase) for way in (turns, -turns))
    expected = (there + back).abs().mean(0) / 2
    torch.testing.assert_close(first.mean((1, 2)), expected, atol=0.004, rtol=0)
    assert first.mean((1, 2)).argmax() == expected.argmax()


def test_coefficients_hardly_change_when_the_image_moves_a_little() -> None:
    scattering, image = Scattering((32, 32), scales=3), picture()
    moved = image.roll(1, 3)
    inside = (..., slice(1, -1), slice(1, -1))
    one, other = scattering(image)[inside], scattering(moved)[inside]
    change = (one - other).norm() / (one - one.mean()).norm()
    assert change < 0.3 * (image - moved).norm() / (image - image.mean()).norm()


def test_a_step_of_the_grid_moves_the_coefficients_by_one() -> None:
    scattering = Scattering((64, 64), scales=2)
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    one, other = scattering(image), scattering(image.roll(4, 2))
    torch.testing.assert_close(one[..., 4:-5, :], other[..., 5:-4, :], atol=1e-3, rtol=0)


def test_energy_does_not_grow_and_orders_hold_most_of_it() -> None:
    scattering = Scattering((64, 64), scales=2)
    image = picture(size=(64, 64))
    energy = 16 * scattering(image).square().sum((2, 3, 4)) / image.square().sum((2, 3))
    assert 0.8 < energy.item() < 1.05


def test_channels_are_scattered_by_themselves() -> None:
    scattering, image = Scattering((32, 32)), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(scattering(image)[:, 1:2], scattering(image[:, 1:2]))


def test_what_cannot_be_scattered_is_refused() -> None:
    with pytest.raises(ValueError, match="scales, angles"):
        Scattering((32, 32), scales=0)
    with pytest.raises(ValueError, match="size"):
        Scattering((8, 32), scales=3)
    with pytest.raises(ValueError, match="image: expected 32x32"):
        Scattering((32, 32))(torch.rand(1, 1, 16, 16))
