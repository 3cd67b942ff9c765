import pytest
import torch

import pinakes
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, posterior, predicted_clean, q_sample
from pinakes.papers.diffusion.dual_output import DualOutput, blended, dual_output_loss, two_answers

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 3}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))
ALPHA_BAR = alpha_bar_schedule(1000).double()


def small(**options: object) -> DualOutput:
    return DualOutput(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def drawn(count: int, samples: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, samples, 2, 8, 8, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("t", "earlier"), [(1000, 999), (500, 300), (2, 1)])
def test_to_mix_the_estimates_is_to_mix_the_means_of_ddpm(t: int, earlier: int) -> None:
    noised, noise, clean, logit = drawn(4)
    gate, kept, before = logit.sigmoid(), ALPHA_BAR[t], ALPHA_BAR[earlier]
    alpha = kept / before
    # as Ho et al. state the mean for foretold noise
    from_noise = (noised - (1 - alpha) / (1 - kept).sqrt() * noise) / alpha.sqrt()
    from_image = (
        before.sqrt() * (1 - alpha) / (1 - kept) * clean + alpha.sqrt() * (1 - before) / (1 - kept) * noised
    )
    mixture = blended(noised, noise, clean, gate, kept.expand(4), within_bounds=False)
    found, _ = posterior(noised, mixture, kept, before)
    torch.testing.assert_close(found, gate * from_image + (1 - gate) * from_noise)


def test_a_gate_at_its_ends_trusts_one_answer_alone() -> None:
    noised, noise, clean = drawn(3)
    kept = ALPHA_BAR[torch.tensor([1, 10, 300, 900])]
    torch.testing.assert_close(blended(noised, noise, clean, torch.ones_like(clean), kept), clean)
    expected = predicted_clean(noised, noise, kept).clamp(-1, 1)
    torch.testing.assert_close(blended(noised, noise, clean, torch.zeros_like(clean), kept), expected)


def test_the_loss_is_the_sum_of_three_errors() -> None:
    clean, noise, foretold, image, logit = drawn(5)
    kept = ALPHA_BAR[torch.tensor([1, 10, 300, 900])]
    found = dual_output_loss(torch.cat([foretold, image, logit], dim=1), clean, noise, kept)
    for sample in range(4):
        share, errors = kept[sample], torch.zeros(5, dtype=torch.float64)
        for place in torch.cartesian_prod(torch.arange(2), torch.arange(8), torch.arange(8)).tolist():
            x, eps, eps_hat, x_hat, gate = (
                each[sample][tuple(place)] for each in (clean, noise, foretold, image, logit.sigmoid())
            )
            noised = share.sqrt() * x + (1 - share).sqrt() * eps
            other = ((noised - (1 - share).sqrt() * eps_hat) / share.sqrt()).clamp(-1, 1)
            mixture = gate * x_hat + (1 - gate) * other
            off = torch.stack([eps - eps_hat, x - x_hat, x - mixture, x - x_hat, x - other])
            errors += off**2 / 128
        expected = errors[0] + errors[1] + errors[2] / (errors[3] + errors[4])
        assert found[sample].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("t", [2, 300, 1000])
def test_the_error_of_the_mean_is_relative_to_those_of_the_means_that_it_mixes(t: int) -> None:
    clean, noise, foretold, image, logit = drawn(5)
    kept, before = ALPHA_BAR[t], ALPHA_BAR[t - 1]
    noised = q_sample(clean, noise, kept.expand(4))

    def off(gate: torch.Tensor) -> torch.Tensor:
        mixture = blended(noised, foretold, image, gate, kept.expand(4))
        mean, truth = (posterior(noised, each, kept, before)[0] for each in (mixture, clean))
        return (mean - truth).square().flatten(1).sum(1)

    relative = off(logit.sigmoid()) / (off(torch.zeros_like(logit)) + off(torch.ones_like(logit)))
    assert (relative < 1).all()
    plain = (foretold - noise).square().flatten(1).mean(1) + (image - clean).square().flatten(1).mean(1)
    found = dual_output_loss(torch.cat([foretold, image, logit], dim=1), clean, noise, kept.expand(4))
    torch.testing.assert_close(found - plain, relative, rtol=1e-4, atol=1e-6)


def test_the_error_of_the_mean_teaches_the_gate_and_nothing_else() -> None:
    clean, noise, foretold, image, logit = drawn(5).unbind()
    kept = ALPHA_BAR[torch.tensor([1, 10, 300, 900])]
    told = torch.cat([foretold, image, logit], dim=1).requires_grad_()
    dual_output_loss(told, clean, noise, kept).sum().backward()
    assert told.grad is not None
    by_noise, by_image, by_gate = told.grad.chunk(3, dim=1)
    torch.testing.assert_close(by_noise, 2 * (foretold - noise) / 128)
    torch.testing.assert_close(by_image, 2 * (image - clean) / 128)
    assert by_gate.any()


def test_the_best_gate_trusts_the_answer_that_is_right() -> None:
    clean, noise, wrong = 0.5 * drawn(3).clamp(-2, 2)
    kept = ALPHA_BAR[torch.tensor([100, 300, 500, 900])]
    for foretold, image, open_gate in ((wrong, clean, True), (noise, wrong, False)):
        logit = torch.zeros_like(clean, requires_grad=True)
        told = torch.cat([foretold, image, logit], dim=1)
        dual_output_loss(told, clean, noise, kept).sum().backward()
        assert logit.grad is not None
        # down the slope of the loss, the gate opens or closes wherever it matters
        assert ((logit.grad <= 1e-12) if open_gate else (logit.grad >= -1e-12)).all()


def test_the_network_has_only_a_few_channels_more() -> None:
    method, other = small(), pinakes.create("ddpm", **SMALL).prepare(INFO)
    counts = [sum(each.numel() for each in one.network.parameters()) for one in (method, other)]
    assert counts[0] - counts[1] == 2 * (8 * 9 + 1)
    noise, clean, gate = two_answers(method.network(torch.rand(2, 1, 8, 8), torch.tensor([3, 900])))
    assert noise.shape == clean.shape == gate.shape == (2, 1, 8, 8)
    assert ((gate > 0) & (gate < 1)).all()


def test_guidance_is_a_step_away_from_what_is_said_without_a_class() -> None:
    method, label = small(guidance=3.0), torch.tensor([0, 1])
    torch.nn.init.normal_(method.averaged.network.tell_class.weight)
    clean = 0.1 * torch.rand(2, 1, 8, 8)
    t = torch.tensor([500, 20])
    noised = q_sample(clean, torch.randn(2, 1, 8, 8), method.alpha_bar[t])
    told, free = (method._blended(noised, t, each) for each in (label, torch.tensor([-1, -1])))
    assert not torch.equal(told, free)
    torch.testing.assert_close(method.denoise(noised, t, label), (free + 3 * (told - free)).clamp(-1, 1))


@pytest.mark.parametrize("options", [{"foretold": "noise"}, {"T": 1}, {"sampling_steps": 0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DualOutput(**options)  # type: ignore[arg-type]
