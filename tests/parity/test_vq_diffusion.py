"""Diffusion of tokens against that of diffusers, where it is installed."""

import pytest
import torch

from pinakes.nn.discrete_diffusion import CategoricalSchedule, mean_posterior
from pinakes.papers.diffusion.vq_diffusion import truncated, with_mask

diffusers = pytest.importorskip("diffusers")
CODES, STEPS = 12, 50


@pytest.fixture
def chances() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, CODES, 30, generator=generator).mul(2).softmax(1)


@pytest.mark.parametrize("masked", [0.9, 0.5])
def test_the_mean_posterior_is_that_of_the_vq_diffusion_scheduler(
    chances: torch.Tensor, masked: float
) -> None:
    scheduler = diffusers.VQDiffusionScheduler(CODES + 1, STEPS, gamma_cum_end=masked)
    ends = torch.ones(1), torch.zeros(1)
    # it keeps what holds at the start behind the last step
    kept, hidden = (
        torch.cat([end, each.exp()[:-1]])
        for end, each in zip(ends, (scheduler.log_cumprod_at, scheduler.log_cumprod_ct), strict=True)
    )
    schedule = CategoricalSchedule(kept, hidden)
    noised = torch.randint(CODES + 1, (4, 30), generator=torch.Generator().manual_seed(1))
    for t in (STEPS, 30, 2, 1):
        now = torch.full((4,), t)
        between = schedule.between(now - 1, now)
        found = mean_posterior(noised, with_mask(chances), schedule.until(now - 1), between)
        # it counts steps from 0
        theirs = scheduler.q_posterior(chances.log(), noised, torch.tensor(t - 1)).exp()
        torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rate", [0.86, 0.3, 0.01])
def test_chances_are_truncated_as_in_the_pipeline(chances: torch.Tensor, rate: float) -> None:
    pytest.importorskip("transformers")
    theirs = diffusers.VQDiffusionPipeline.truncate(None, chances.log(), rate).exp()
    torch.testing.assert_close(truncated(chances, rate), theirs / theirs.sum(1, keepdim=True))
