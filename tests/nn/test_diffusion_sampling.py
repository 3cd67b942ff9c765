"""Samplers against what is known in closed form: on normal data the best network is a linear map."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from pinakes.nn.diffusion_sampling import (
    ancestral_path,
    ddim_path,
    dpm_solver_path,
    inverted,
    spaced_steps,
)
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule
from pinakes.nn.sample_quality import kernel_distance

STEPS = 1000
ALPHA_BAR = alpha_bar_schedule(STEPS)
MEAN, DEVIATION = 0.7, 0.3


def best(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The mean of x_0 given x_t, for data from a normal distribution."""
    kept = ALPHA_BAR.to(noised)[t][:, None]
    gain = kept.sqrt() * DEVIATION**2 / (kept * DEVIATION**2 + 1 - kept)
    return MEAN + gain * (noised - kept.sqrt() * MEAN)


def start(count: int) -> torch.Tensor:
    return torch.randn(count, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn(noise: torch.Tensor) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return lambda: torch.randn(noise.shape, generator=generator, dtype=noise.dtype)


def expected(steps: list[int], eta: float) -> tuple[float, float]:
    """Mean and deviation of what DDIM gives: all its steps are linear, so both follow from step to step."""
    mean, variance = 0.0, 1.0
    for t, s in pairwise(steps):
        kept, other = ALPHA_BAR[t].item(), ALPHA_BAR[s].item()
        gain = kept**0.5 * DEVIATION**2 / (kept * DEVIATION**2 + 1 - kept)
        new = eta**2 * (1 - other) / (1 - kept) * (1 - kept / other)
        along = (max(0.0, 1 - other - new) / (1 - kept)) ** 0.5
        slope = other**0.5 * gain + along * (1 - kept**0.5 * gain)
        offset = MEAN * (1 - gain * kept**0.5)
        mean = slope * mean + other**0.5 * offset - along * kept**0.5 * offset
        variance = slope**2 * variance + new
    return mean, variance**0.5


@pytest.mark.parametrize("count", [STEPS, 20])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_gives_the_distribution_that_follows_from_its_steps(count: int, eta: float) -> None:
    noise, steps = start(20_000), spaced_steps(STEPS, count)
    found = ddim_path(best, noise, ALPHA_BAR.double(), steps, eta, drawn(noise))[-1]
    mean, deviation = expected(steps, eta)
    assert found.mean().item() == pytest.approx(mean, abs=0.01)
    assert found.std().item() == pytest.approx(deviation, rel=0.02)


def test_with_all_steps_it_is_that_of_the_data() -> None:
    for eta in (0.0, 1.0):
        mean, deviation = expected(spaced_steps(STEPS, STEPS), eta)
        assert mean == pytest.approx(MEAN, abs=0.01)
        assert deviation == pytest.approx(DEVIATION, rel=0.02)


def test_ancestral_sampling_is_ddim_with_as_much_new_noise() -> None:
    noise, steps = start(50), spaced_steps(STEPS, 100)
    found = ancestral_path(best, noise, ALPHA_BAR.double(), steps, drawn(noise))
    torch.testing.assert_close(found, ddim_path(best, noise, ALPHA_BAR.double(), steps, 1.0, drawn(noise)))


def test_inversion_leads_back_to_the_image() -> None:
    images = MEAN + DEVIATION * start(50)
    steps = spaced_steps(STEPS, 40)
    noise = inverted(best, images, ALPHA_BAR.double(), steps)
    again = ddim_path(best, noise, ALPHA_BAR.double(), steps)[-1]
    torch.testing.assert_close(again, images, atol=2e-3, rtol=0)
    assert noise.std().item() == pytest.approx(1, rel=0.25)


def test_a_solver_of_second_order_needs_fewer_steps() -> None:
    pytest.importorskip("diffusers")
    noise = start(500)
    # where the way along the same noise leads if its steps are small
    true = ddim_path(best, noise, ALPHA_BAR.double(), spaced_steps(STEPS, STEPS))[-1]
    coarse = ddim_path(best, noise, ALPHA_BAR.double(), spaced_steps(STEPS, 10))[-1]
    solved = dpm_solver_path(best, noise, ALPHA_BAR, 10)
    assert len(solved) == 11
    assert (solved[-1] - true).square().mean() < 0.2 * (coarse - true).square().mean()


CENTRES = torch.tensor([[-1.0, 0.5], [0.8, 0.8], [0.2, -0.9]], dtype=torch.float64)
SPREAD = 0.15


def best_for_the_mixture(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The mean of x_0 given x_t, for data around three centres."""
    kept = ALPHA_BAR.to(noised)[t][:, None]
    variance = kept * SPREAD**2 + 1 - kept
    off = noised[:, None] - kept.sqrt()[:, None] * CENTRES
    share = (-off.square().sum(2) / (2 * variance)).softmax(1)
    means = CENTRES + (kept.sqrt() * SPREAD**2 / variance)[:, None] * off
    return (share[:, :, None] * means).sum(1)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm"])
def test_samples_of_a_mixture_lie_around_its_centres(sampler: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    if sampler == "dpm":
        pytest.importorskip("diffusers")
        found = dpm_solver_path(best_for_the_mixture, noise, ALPHA_BAR, 50)[-1]
    elif sampler == "ddim":
        found = ddim_path(best_for_the_mixture, noise, ALPHA_BAR.double(), spaced_steps(STEPS, 200))[-1]
    else:
        steps = spaced_steps(STEPS, 200)
        found = ancestral_path(best_for_the_mixture, noise, ALPHA_BAR.double(), steps, drawn(noise))[-1]
    nearest = torch.cdist(found, CENTRES).min(1)
    share = nearest.indices.bincount(minlength=3) / len(found)
    # four standard errors of a third of 3000
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.035, rtol=0)
    true = CENTRES[torch.randint(3, (3000,), generator=generator)]
    true = true + SPREAD * torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    assert abs(kernel_distance(true, found)) < 0.01
    assert nearest.values.square().mean().sqrt().item() == pytest.approx(SPREAD * 2**0.5, rel=0.1)


@pytest.mark.parametrize("count", [0, STEPS + 1])
def test_a_number_of_steps_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        spaced_steps(STEPS, count)


def test_all_steps_are_taken_where_all_are_asked_for() -> None:
    assert spaced_steps(5, 5) == [5, 4, 3, 2, 1, 0]
