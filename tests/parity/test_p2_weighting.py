"""P2 weights against the signal-to-noise ratios of diffusers, where it is installed."""

import pytest
import torch

from pinakes.nn.gaussian_diffusion import alpha_bar_schedule
from pinakes.papers.diffusion.p2_weighting import p2_weights

pytest.importorskip("diffusers")


def test_weights_follow_from_the_signal_to_noise_ratios_of_diffusers() -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    # it counts steps from 0, and gives no name to the clean image
    ratio = compute_snr(scheduler, torch.arange(1000))
    for gamma in (0.5, 1.0):
        found = p2_weights(alpha_bar_schedule()[1:], gamma)
        torch.testing.assert_close(found, (1 + ratio) ** -gamma, rtol=2e-3, atol=1e-6)
