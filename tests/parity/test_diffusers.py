"""The noise of diffusion models against that of diffusers, where it is installed."""

import pytest
import torch

from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, q_sample

diffusers = pytest.importorskip("diffusers")


def test_noise_is_that_of_the_ddpm_scheduler() -> None:
    scheduler = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    clean, noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 10, 500, 999])
    # it counts steps from 0, and gives no name to the clean image
    found = q_sample(clean, noise, alpha_bar_schedule()[t + 1])
    torch.testing.assert_close(found, scheduler.add_noise(clean, noise, t), rtol=1e-4, atol=1e-5)
