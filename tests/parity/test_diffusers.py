"""The noise of diffusion models against that of diffusers, where it is installed."""

import pytest
import torch

from pinakes.nn.diffusion_sampling import ancestral_step, ddim_step
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, predicted_clean, q_sample

diffusers = pytest.importorskip("diffusers")


def test_noise_is_that_of_the_ddpm_scheduler() -> None:
    scheduler = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    clean, noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 10, 500, 999])
    # it counts steps from 0, and gives no name to the clean image
    found = q_sample(clean, noise, alpha_bar_schedule()[t + 1])
    torch.testing.assert_close(found, scheduler.add_noise(clean, noise, t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("t", "earlier"), [(1000, 980), (500, 480), (20, 0)])
def test_a_ddim_step_is_that_of_the_ddim_scheduler(t: int, earlier: int) -> None:
    scheduler = diffusers.DDIMScheduler(
        1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False
    )
    scheduler.set_timesteps(50)
    noised, noise, new = torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha_bar = alpha_bar_schedule()
    clean = predicted_clean(noised, noise, alpha_bar[t].expand(2))
    for eta in (0.0, 0.7):
        theirs = scheduler.step(noise, t - 1, noised, eta=eta, variance_noise=new if eta else None)
        # where it steps behind the first of its steps, it takes that one for the clean image
        other = alpha_bar[earlier] if earlier else scheduler.final_alpha_cumprod
        found = ddim_step(noised, clean, alpha_bar[t], other, eta, new)
        torch.testing.assert_close(found, theirs.prev_sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [1000, 500, 2, 1])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_an_ancestral_step_is_that_of_the_ddpm_scheduler(t: int, variance: str) -> None:
    scheduler = diffusers.DDPMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=False,
        variance_type=variance,
    )
    noised, noise = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    alpha_bar = alpha_bar_schedule()
    clean = predicted_clean(noised, noise, alpha_bar[t].expand(2))
    theirs = scheduler.step(noise, t - 1, noised, generator=torch.Generator().manual_seed(1)).prev_sample
    new = torch.randn(noised.shape, generator=torch.Generator().manual_seed(1))
    found = ancestral_step(
        noised, clean, alpha_bar[t], alpha_bar[t - 1], new, large_variance=variance == "fixed_large"
    )
    torch.testing.assert_close(found, theirs, rtol=1e-4, atol=1e-5)
