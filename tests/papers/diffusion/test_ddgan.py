import pytest
import torch
from torch import Tensor, nn

import pinakes
from pinakes.nn.gaussian_diffusion import posterior
from pinakes.papers.diffusion.ddgan import (
    AdaptiveGroupNorm,
    DenoisingDiffusionGAN,
    Discriminator,
    Generator,
    adversarial_losses,
    diffused_pair,
    discriminator_loss,
    drawn_before,
    generator_loss,
    r1_penalty,
    spread,
    variance_preserving_schedule,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "nz": 6}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))


def small(**options: object) -> DenoisingDiffusionGAN:
    return DenoisingDiffusionGAN(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_the_schedule_is_the_product_of_the_betas_of_the_stochastic_equation() -> None:
    # as the authors' code reckons it: betas from the variances at times from 0.001 to 1, then their product
    time = torch.linspace(0, 1, 5, dtype=torch.float64) * (1 - 1e-3) + 1e-3
    variance = 1 - (-0.5 * time**2 * (20 - 0.1) - time * 0.1).exp()
    beta = 1 - (1 - variance[1:]) / (1 - variance[:-1])
    expected = torch.cat([torch.ones(1), (1 - beta).cumprod(0)]).float()
    torch.testing.assert_close(variance_preserving_schedule(4), expected, rtol=1e-5, atol=1e-8)


def test_pairs_have_the_moments_of_the_forward_process() -> None:
    alpha_bar = torch.tensor([1.0, 0.6, 0.15], dtype=torch.float64)
    torch.manual_seed(0)
    clean = torch.full((200_000, 1), 0.7, dtype=torch.float64)
    for t in (1, 2):
        before, noised = diffused_pair(clean, torch.full((len(clean),), t), alpha_bar)
        earlier, kept = alpha_bar[t - 1], alpha_bar[t]
        found = torch.cov(torch.cat([before, noised], dim=1).mT)
        shared = (kept / earlier).sqrt() * (1 - earlier)
        expected = torch.stack([torch.stack([1 - earlier, shared]), torch.stack([shared, 1 - kept])])
        torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
        torch.testing.assert_close(before.mean(), 0.7 * earlier.sqrt(), atol=0.01, rtol=0)
        torch.testing.assert_close(noised.mean(), 0.7 * kept.sqrt(), atol=0.01, rtol=0)


def test_each_sample_is_drawn_from_the_posterior_of_its_own_step() -> None:
    alpha_bar = variance_preserving_schedule(4)
    noised, clean, noise = torch.randn(3, 4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1, 2, 3, 4])
    found = drawn_before(noised, clean, t, alpha_bar, noise)
    for place, step in enumerate(t.tolist()):
        mean, variance = posterior(
            noised[place, None], clean[place, None], alpha_bar[step], alpha_bar[step - 1]
        )
        torch.testing.assert_close(found[place], (mean + variance.sqrt() * noise[place])[0])
    torch.testing.assert_close(found[0], clean[0])


def test_losses_are_the_logarithms_of_probabilities() -> None:
    real, made = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    apart = -real.sigmoid().log().mean() - (1 - made.sigmoid()).log().mean()
    torch.testing.assert_close(discriminator_loss(real, made), apart)
    torch.testing.assert_close(generator_loss(made), -made.sigmoid().log().mean())


def test_the_penalty_of_a_quadratic_form_is_known() -> None:
    real = torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(r1_penalty(real.square().sum(1), real), 2 * real.square().sum(1).mean())


def test_gradients_of_each_loss_reach_only_its_own_network() -> None:
    method = small()
    clean = torch.rand(4, 1, 8, 8) * 2 - 1

    def generate(noised: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = method.network(noised, t, torch.randn(len(noised), 6))
        return answer

    networks: dict[str, nn.Module] = {"generator": method.network, "discriminator": method.discriminator}
    for which, name in enumerate(networks):
        method.zero_grad(set_to_none=True)
        losses = adversarial_losses(generate, method.discriminator, clean, method.alpha_bar, 0.1)
        losses[which].backward()
        for other, network in networks.items():
            touched = any(each.grad is not None and each.grad.any() for each in network.parameters())
            assert touched == (other == name)


def test_the_generator_is_pushed_as_by_a_discriminator_that_stands_still() -> None:
    method = small()
    torch.manual_seed(1)
    made = (torch.rand(4, 1, 8, 8) * 2 - 1).requires_grad_()
    clean, t = torch.zeros(4, 1, 8, 8), torch.ones(4, dtype=torch.int64)
    # at the only step, what is made is the answer itself
    torch.manual_seed(2)
    near, _ = adversarial_losses(
        lambda noised, steps: made, method.discriminator, clean, method.alpha_bar[:2], 0.0
    )
    torch.manual_seed(2)
    torch.randint(1, 2, (4,))
    noised = diffused_pair(clean, t, method.alpha_bar)[1]
    expected = generator_loss(method.discriminator(made, noised, t))
    torch.testing.assert_close(near, expected)
    torch.testing.assert_close(torch.autograd.grad(near, made)[0], torch.autograd.grad(expected, made)[0])


def test_adaptive_normalisation_is_group_normalisation_with_a_scale_and_shift_from_the_style() -> None:
    layer, maps, style = AdaptiveGroupNorm(16, 5), torch.randn(3, 16, 4, 4), torch.randn(3, 5)
    scale, shift = layer.say(style).chunk(2, dim=1)
    for place in range(3):
        expected = nn.functional.group_norm(maps[place, None], 8, scale[place], shift[place])
        torch.testing.assert_close(layer(maps, style)[place, None], expected)
    torch.testing.assert_close(layer(maps, 0 * style), nn.functional.group_norm(maps, 8))


def test_the_spread_is_the_mean_deviation_within_four_samples() -> None:
    maps = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = spread(maps)
    assert found.shape == (8, 1, 2, 2)
    for place in range(2):
        together = maps[place::2]
        expected = together.std(0, unbiased=False).mean()
        torch.testing.assert_close(found[place::2], expected.expand(4, 1, 2, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(spread(maps[:1]), torch.full((1, 1, 2, 2), 1e-4))


@pytest.mark.parametrize("size", [(8, 8), (17, 9)])
def test_the_same_noisy_image_may_lead_to_different_clean_ones(size: tuple[int, int]) -> None:
    network = Generator(6, channels=3, n_channels=8, ch_mults=(1, 2, 2), n_blocks=2, dropout=0.0, classes=4)
    noised, t = torch.randn(1, 3, *size).expand(2, -1, -1, -1), torch.tensor([4, 4])
    one, other = network(noised, t, torch.randn(2, 6), torch.tensor([1, 1]))
    assert one.shape == (3, *size)
    assert one.abs().max() <= 1
    assert not torch.allclose(one, other)


def test_the_discriminator_is_told_steps_and_classes() -> None:
    torch.manual_seed(0)
    network = Discriminator(1, 8, classes=3)
    before, noised = torch.randn(2, 4, 1, 8, 8)
    t, label = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 1, 2, -1])
    logits = network(before, noised, t, label)
    assert logits.shape == (4,)
    assert not torch.allclose(logits, network(before, noised, 5 - t, label))
    assert not torch.allclose(logits, network(before, noised, t, torch.full_like(label, -1)))


def test_the_generator_is_asked_as_often_as_there_are_steps() -> None:
    method, asked = small(T=3), []
    method.averaged.network.register_forward_hook(
        lambda module, given, told: asked.append(given[1][0].item())
    )
    found = method.generate(2, labels=torch.tensor([0, 1]), seed=0)
    assert asked == [3, 2, 1]
    assert found["stages"].shape == (2, 4, 1, 8, 8)


def test_the_same_seed_gives_the_same_images_however_many_are_made() -> None:
    method = small()
    torch.testing.assert_close(method.sample(5, seed=3)[:2], method.sample(2, seed=3), atol=1e-5, rtol=0)
    assert not torch.equal(method.sample(2, seed=3), method.sample(2, seed=4))


def test_both_networks_learn_at_their_own_rates() -> None:
    method = small(learning_rate=1e-4, lr_d=3e-4)
    adam = method.configure_optimizers()["optimizer"]
    assert [group["initial_lr"] for group in adam.param_groups] == [1e-4, 3e-4]
    assert [len(group["params"]) for group in adam.param_groups] == [
        len(list(network.parameters())) for network in (method.network, method.discriminator)
    ]


@pytest.mark.parametrize(
    "options", [{"T": 0}, {"nz": 0}, {"gamma": -0.1}, {"lr_d": 0.0}, {"learning_rate": 0.0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DenoisingDiffusionGAN(**options)  # type: ignore[arg-type]
