import time

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

import pinakes
from pinakes.nn.diffusion_sampling import ancestral_path, ancestral_step, spaced_steps
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule
from pinakes.papers.diffusion.base import drawn_like
from pinakes.papers.diffusion.low_density import (
    LowDensitySampling,
    NoisyClassifier,
    class_gaussians,
    guided_step,
    hardness_score,
    log_shares,
    shares_gradient,
    unit_gradient,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 4}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one", "two"))


def small(**options: object) -> LowDensitySampling:
    return LowDensitySampling(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_hardness_is_minus_the_logarithm_of_a_normal_density() -> None:
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64)
    covariances = roots @ roots.mT + torch.eye(4, dtype=torch.float64)
    means = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    features = torch.randn(7, 4, generator=generator, dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    found = hardness_score(features, label, means, covariances)
    for place, each in enumerate(label.tolist()):
        density = MultivariateNormal(means[each], covariances[each]).log_prob(features[place])
        torch.testing.assert_close(found[place], -density)


def test_gaussians_are_those_of_each_class() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(4000) % 2
    features = torch.randn(4000, 3, generator=generator) * torch.tensor([1.0, 2.0, 0.5]) + 3 * label[:, None]
    means, covariances = class_gaussians(features, label, 2)
    for each in range(2):
        part = features[label == each].double()
        torch.testing.assert_close(means[each], part.mean(0))
        torch.testing.assert_close(covariances[each], torch.cov(part.mT), atol=0.05, rtol=0)


def test_shares_are_a_softmax_of_cosines() -> None:
    features, centres = torch.randn(4, 6), torch.randn(3, 6)
    found = log_shares(features, centres, 0.2).exp()
    for place in range(4):
        like = torch.stack([torch.cosine_similarity(features[place], each, dim=0) for each in centres])
        expected = (like / 0.2).exp() / (like / 0.2).exp().sum()
        torch.testing.assert_close(found[place], expected)


def test_a_unit_gradient_keeps_its_direction_and_a_zero_stays_zero() -> None:
    gradient = torch.randn(3, 1, 4, 4) * torch.tensor([1e-6, 1.0, 0.0]).view(3, 1, 1, 1)
    found = unit_gradient(gradient)
    torch.testing.assert_close(found[:2].flatten(1).abs().amax(1), torch.ones(2))
    torch.testing.assert_close(found[:2] * gradient[:2].abs().amax((1, 2, 3), keepdim=True), gradient[:2])
    assert not found[2].any()


def test_the_gradient_of_a_share_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    network = NoisyClassifier(1, 3, 8).double()
    noised, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([5, 700])
    centre = torch.tensor([2, 0])
    # sines of steps are single, and the network is double
    network.tell.register_forward_pre_hook(lambda module, given: (given[0].double(),))
    found = shares_gradient(network, noised, t, centre)
    moved = torch.zeros_like(noised)
    moved[:, 0, 3, 4] = 1e-5
    above, below = (network(noised + sign * moved, t) for sign in (1, -1))
    slope = (above - below).gather(1, centre[:, None])[:, 0] / 2e-5
    torch.testing.assert_close(found[:, 0, 3, 4], slope, rtol=1e-4, atol=1e-8)


def test_a_step_is_shifted_by_the_variance_times_the_push() -> None:
    alpha_bar = alpha_bar_schedule()
    noised, clean, push, noise = torch.randn(4, 2, 1, 4, 4)
    for t, s in ((1000, 900), (500, 480), (20, 0)):
        plain = ancestral_step(noised, clean, alpha_bar[t], alpha_bar[s], noise)
        kept, earlier = alpha_bar[t], alpha_bar[s]
        variance = (1 - kept / earlier) * (1 - earlier) / (1 - kept)
        found = guided_step(noised, clean, kept, earlier, push, noise)
        torch.testing.assert_close(found, plain + variance * push)


def test_without_weights_samples_are_those_of_the_diffusion_model() -> None:
    method, label = small(alpha=0.0, beta=0.0), torch.tensor([0, 2, 1])
    generators = [torch.Generator().manual_seed(each) for each in range(3)]
    # which class is asked for is drawn first
    for each in generators:
        torch.randint(3, (), generator=each)
    start = torch.randn(3, 1, 8, 8)

    def denoise(noised: Tensor, t: Tensor) -> Tensor:
        return method.denoise(noised, t, label)

    expected = ancestral_path(
        denoise, start, method.alpha_bar, spaced_steps(1000, 4), lambda: drawn_like(start, generators)
    )
    generators = [torch.Generator().manual_seed(each) for each in range(3)]
    with torch.no_grad():
        found = method.path(start, label, generators)
    torch.testing.assert_close(found[-1], expected[-1])


def test_samples_are_pushed_away_from_their_class_and_towards_real_images() -> None:
    noised, t, label = torch.randn(4, 1, 8, 8), torch.tensor([10, 100, 300, 900]), torch.tensor([0, 1, 2, 0])
    for options, network, centre, sign in (
        ({"alpha": 2.0, "beta": 0.0}, "typical", label, -1),
        ({"alpha": 0.0, "beta": 2.0}, "real", torch.ones_like(label), 1),
    ):
        method = small(**options)
        pushed = method.push(noised, t, label)
        torch.testing.assert_close(pushed.flatten(1).abs().amax(1), torch.full((4,), 2.0))
        before, after = (
            getattr(method, network)(at, t).gather(1, centre[:, None])[:, 0]
            for at in (noised, noised + 1e-3 * pushed)
        )
        assert (sign * (after - before) > 0).all()


def test_a_sample_whose_class_is_not_asked_for_is_of_one_that_is_drawn() -> None:
    method, told = small(guidance=1.0), []
    method.averaged.network.register_forward_hook(lambda module, given, answer: told.append(given[2]))
    assert "label" not in method.generate(40, seed=0)
    assert set(told[0].tolist()) == {0, 1, 2}
    assert all(torch.equal(each, told[0]) for each in told)


def test_what_pushes_learns_to_which_centre_images_belong() -> None:
    method = small()
    torch.manual_seed(0)

    def some() -> tuple[Tensor, Tensor]:
        centre = torch.arange(16) % 2
        return (2.0 * centre - 1).view(-1, 1, 1, 1) * torch.ones(16, 1, 8, 8), centre

    method._learn_shares(method.real, some, 40)
    clean, centre = some()
    assert (method.real(clean, torch.full((16,), 100)).argmax(1) == centre).all()
    assert not any(each.requires_grad for each in method.real.parameters())


def test_images_of_an_unknown_class_teach_nothing() -> None:
    method = small()
    before = {name: value.clone() for name, value in method.typical.state_dict().items()}
    method._learn_shares(method.typical, lambda: (torch.randn(4, 1, 8, 8), torch.full((4,), -1)), 1)
    assert all(torch.equal(value, before[name]) for name, value in method.typical.state_dict().items())


def test_the_diffusion_model_is_the_same_however_long_learns_what_pushes() -> None:
    one, other = (
        LowDensitySampling(**SMALL | {"guide_share": share}).fit("digits?n=40", steps=2, batch_size=4)  # type: ignore[arg-type]
        for share in (0.5, 2.0)
    )
    assert int(one.trained) == 2
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name
    assert not torch.equal(one.typical.centres, other.typical.centres)


def test_a_limit_of_time_is_that_of_all_three_networks(caplog: pytest.LogCaptureFixture) -> None:
    method = LowDensitySampling(**SMALL | {"made": 100_000, "guide_share": 1000.0})  # type: ignore[arg-type]
    started = time.monotonic()
    method.fit("digits?n=40", steps=100_000, batch_size=64, time_limit=2.0)
    assert time.monotonic() - started < 10
    assert "images of the model's" in caplog.text
    assert not torch.equal(method.real.centres, LowDensitySampling(**SMALL).prepare(method.info).real.centres)  # type: ignore[arg-type]


def test_data_without_classes_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="classes"):
        LowDensitySampling().prepare(pinakes.DataInfo(1, (8, 8), ()))


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -1.0},
        {"beta": -1.0},
        {"tau": 0.0},
        {"guide_share": 0.0},
        {"made": 0},
        {"sampler": "ddim"},
        {"classes": False},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        LowDensitySampling(**options)  # type: ignore[arg-type]
