"""RePaint against the scheduler of diffusers, where it is installed."""

from itertools import pairwise

import pytest
import torch

from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, predicted_clean
from pinakes.papers.diffusion.repaint import repaint_step, resampling_schedule

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize(("count", "jump_length", "resamplings"), [(250, 10, 10), (50, 5, 3), (7, 3, 2)])
def test_the_way_with_its_jumps_is_that_of_the_scheduler(
    count: int, jump_length: int, resamplings: int
) -> None:
    scheduler = diffusers.RePaintScheduler(count)
    scheduler.set_timesteps(count, jump_length, resamplings)
    # it goes forward by single steps
    ours = [
        step
        for place, following in pairwise(resampling_schedule(count, jump_length, resamplings))
        for step in ([following] if following < place else range(place + 1, following + 1))
    ]
    assert ours == scheduler.timesteps.tolist()


@pytest.mark.parametrize(("t", "earlier"), [(1000, 980), (500, 480), (20, 0)])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_step_is_that_of_the_scheduler(t: int, earlier: int, eta: float) -> None:
    scheduler = diffusers.RePaintScheduler(eta=eta, clip_sample=False)
    scheduler.set_timesteps(50)
    noised, foretold, known = torch.randn(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    hole = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    theirs = scheduler.step(
        foretold, t - 1, noised, known, (~hole)[:, None].float(), torch.Generator().manual_seed(2)
    ).prev_sample
    # it uses one noise for both parts
    noise = torch.randn(noised.shape, generator=torch.Generator().manual_seed(2))
    alpha_bar = alpha_bar_schedule()
    clean = predicted_clean(noised, foretold, alpha_bar[t].expand(2))
    found = repaint_step(noised, clean, known, hole, alpha_bar[t], alpha_bar[earlier], noise, noise, eta)
    torch.testing.assert_close(found, theirs, rtol=1e-5, atol=1e-5)
