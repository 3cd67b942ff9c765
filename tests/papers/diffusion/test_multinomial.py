import pytest
import torch

import pinakes
from pinakes.nn.discrete_diffusion import CategoricalSchedule, cosine_kept, q_sample
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, posterior
from pinakes.papers.diffusion.multinomial import (
    CategoricalUNet,
    MultinomialDiffusion,
    bits_per_dimension,
    gaussian_bits_per_dimension,
    spread_steps,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "T": 20, "sampling_steps": 4}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))


def small(**options: object) -> MultinomialDiffusion:
    return MultinomialDiffusion(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_the_loss_is_that_of_a_naive_loop_over_places() -> None:
    """Written out for each place by theta_post, with the same draws."""
    method = small(levels=3)
    clean = torch.randint(3, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    found = method.loss(clean, torch.tensor([0, 1, 0, 1]))
    torch.manual_seed(1)
    t, _ = method.important.draw(4)
    noised = q_sample(clean, method.schedule.until(t), 3)
    with torch.no_grad():
        chances = method.network(noised, t, torch.tensor([0, 1, 0, 1])).softmax(1).double()
    alpha_bar = method.schedule.kept
    eye, total = torch.eye(3, dtype=torch.float64), 0.0
    for sample in range(4):
        step = int(t[sample])
        for row in range(8):
            for column in range(8):
                first = eye[clean[sample, 0, row, column]]
                now = eye[noised[sample, 0, row, column]]
                guess = chances[sample, :, 0, row, column]
                alpha, before = alpha_bar[step] / alpha_bar[step - 1], alpha_bar[step - 1]
                theta = [
                    (alpha * now + (1 - alpha) / 3) * (before * one + (1 - before) / 3)
                    for one in (first, guess)
                ]
                true, other = (each / each.sum() for each in theta)
                total += float((true * (true / other).log()).sum())
    # all steps are as likely at first
    assert found.item() == pytest.approx(20 * total / (4 * 64), rel=1e-3)


def test_with_the_right_network_the_bound_is_the_entropy() -> None:
    """For single places, whose best network knows how often each category is."""
    data = torch.tensor([0.5, 0.1, 0.15, 0.25])
    torch.manual_seed(0)
    clean = torch.multinomial(data, 20_000, replacement=True)[None]

    def best(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return data[None, :, None].expand(1, 4, 20_000)

    found = bits_per_dimension(best, clean, CategoricalSchedule(cosine_kept(1000)), 4, draws=500)
    assert found.item() == pytest.approx(float(-(data * data.log2()).sum()), abs=0.03)


def test_the_bound_of_gaussian_noise_is_the_entropy_too() -> None:
    """Two levels as likely; the best estimate of x_0 is a hyperbolic tangent."""
    alpha_bar = alpha_bar_schedule(1000)

    def best(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        kept = alpha_bar[t].view(-1, 1, 1, 1)
        return (noised * kept.sqrt() / (1 - kept)).tanh()

    torch.manual_seed(0)
    clean = torch.randint(2, (1, 1, 100, 100)) * 2.0 - 1
    found = gaussian_bits_per_dimension(best, clean, alpha_bar, 2, draws=2000)
    assert found.item() == pytest.approx(1.0, abs=0.03)


def test_the_error_of_gaussian_noise_costs_what_the_divergence_of_gaussians_does() -> None:
    """One step by the means and the variance of the posteriors, against half the fall of the ratio times the error."""
    alpha_bar = alpha_bar_schedule(3, 0.1, 0.3).double()
    noised, clean, other = (torch.tensor([[[[value]]]], dtype=torch.float64) for value in (0.3, 1.0, 0.6))
    mean, variance = posterior(noised, clean, alpha_bar[3], alpha_bar[2])
    expected = (mean - posterior(noised, other, alpha_bar[3], alpha_bar[2])[0]).square() / (2 * variance)
    snr = alpha_bar / (1 - alpha_bar)
    torch.testing.assert_close(0.5 * (snr[2] - snr[3]) * (clean - other).square(), expected)


@pytest.mark.parametrize("first", [1, 2])
def test_spread_steps_stand_for_all_steps(first: int) -> None:
    torch.manual_seed(0)
    t, weight = spread_steps(8, 20_000, 30, first)
    assert t.min() == first
    assert t.max() == 30
    mean = torch.zeros(31).index_add(0, t.flatten(), weight.flatten()) / 20_000
    torch.testing.assert_close(mean[first:], torch.ones(31 - first), atol=0.05, rtol=0)


def test_the_network_answers_for_each_channel_by_itself() -> None:
    seen = {}

    def network(maps: torch.Tensor, t: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        seen["maps"] = maps
        return maps

    unet = CategoricalUNet(torch.nn.Identity(), 3)
    unet.network.forward = network  # type: ignore[method-assign,assignment]
    noised = torch.randint(3, (2, 2, 4, 4))
    answer = unet(noised, torch.tensor([1, 2]))
    assert torch.equal(answer.argmax(1), noised)
    assert seen["maps"].shape == (2, 6, 4, 4)


def test_images_of_levels_come_back() -> None:
    method = small(levels=5)
    image = torch.arange(5).float().div(4).repeat(1, 1, 8, 13)[..., :8]
    torch.testing.assert_close(method.decode(method.encode(image)), image)
    assert method.encode(torch.rand(2, 1, 8, 8)).max() <= 4


def test_samples_are_levels_and_the_same_seed_gives_the_same_ones() -> None:
    method = small(levels=4)
    sample = method.sample(3, seed=2)
    assert torch.equal((sample * 3).round() / 3, sample)
    assert torch.equal(method.sample(2, seed=2), sample[:2])
    assert not torch.equal(method.sample(2, seed=3), sample[:2])


def test_the_bound_of_images_is_about_all_their_bits_before_training() -> None:
    torch.manual_seed(0)
    image = torch.rand(4, 1, 8, 8)
    found = small(levels=8).bound(image, torch.tensor([0, 1, 1, -1]))
    assert found.shape == (4,)
    assert (found > 2).all()
    assert (found < 4).all()


@pytest.mark.parametrize(
    "options", [{"levels": 1}, {"levels": 300}, {"T": 1}, {"sampling_steps": 0}, {"sampling_steps": 1001}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        MultinomialDiffusion(**options)  # type: ignore[arg-type]
