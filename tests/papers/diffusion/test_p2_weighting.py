import pytest
import torch

import pinakes
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, q_sample
from pinakes.papers.diffusion.base import Foretold, as_clean, to_foretell
from pinakes.papers.diffusion.ddpm import DDPM
from pinakes.papers.diffusion.p2_weighting import P2Weighting, p2_weights, weights_for

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 3}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))
ALPHA_BAR = alpha_bar_schedule(1000)


def small(**options: object) -> P2Weighting:
    return P2Weighting(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_weights_are_those_of_the_paper_step_by_step() -> None:
    for gamma, k in ((0.5, 1.0), (1.0, 1.0), (2.0, 0.3)):
        found = p2_weights(ALPHA_BAR[1:], gamma, k)
        for t in (1, 20, 500, 1000):
            kept = ALPHA_BAR[t].item()
            assert found[t - 1].item() == pytest.approx(1 / (k + kept / (1 - kept)) ** gamma, rel=1e-3)


def test_stronger_noise_counts_more() -> None:
    assert (p2_weights(ALPHA_BAR[1:]).diff() > 0).all()
    torch.testing.assert_close(p2_weights(ALPHA_BAR[1:]), 1 - ALPHA_BAR[1:])


@pytest.mark.parametrize("kind", ["clean", "velocity"])
def test_the_loss_is_the_same_whatever_is_foretold(kind: Foretold) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise, guess = torch.randn(3, 5, 1, 8, 8, generator=generator, dtype=torch.float64)
    kept = ALPHA_BAR[torch.tensor([20, 100, 500, 900, 1000])].double()
    noised = q_sample(clean, noise, kept)
    # the noise that follows from the same estimate of x_0
    estimate = as_clean(kind, guess, noised, kept)
    foretold = (noised - kept.sqrt().view(-1, 1, 1, 1) * estimate) / (1 - kept).sqrt().view(-1, 1, 1, 1)
    expected = p2_weights(kept, 0.5) * (foretold - noise).square().flatten(1).mean(1)
    error = (guess - to_foretell(kind, clean, noise, kept)).square().flatten(1).mean(1)
    torch.testing.assert_close(weights_for(kind, kept, 0.5) * error, expected)


def test_without_gamma_it_is_the_simple_loss() -> None:
    clean, label = torch.rand(16, 1, 8, 8), torch.zeros(16, dtype=torch.int64)
    losses = []
    for method in (small(gamma=0.0), DDPM(**SMALL).prepare(INFO).eval(), small()):  # type: ignore[arg-type]
        torch.manual_seed(0)
        losses.append(method.loss(clean, label).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[2] < 0.95 * losses[0]


@pytest.mark.parametrize("options", [{"gamma": -0.1}, {"k": 0.0}, {"sampling_steps": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        P2Weighting(**options)  # type: ignore[arg-type]
