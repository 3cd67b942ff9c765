import pytest
import torch

import pinakes
from pinakes.engine.seeds import mix
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule
from pinakes.papers.diffusion.sr3 import SR3, Regressor, drawn_levels, linear_schedule, told_level

SMALL = {"n_channels": 8, "ch_mults": (1, 2)}
INFO = pinakes.DataInfo(1, (8, 8))


def small(**options: object) -> SR3:
    torch.manual_seed(0)
    return SR3(**SMALL | {"sampling_steps": 4} | options).prepare(INFO).eval()  # type: ignore[arg-type]


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_levels_are_drawn_evenly_between_those_of_neighbouring_steps() -> None:
    gamma = torch.tensor([1.0, 0.9, 0.5, 0.1])
    torch.manual_seed(0)
    drawn = drawn_levels(gamma, 30_000)
    for low, high in zip(gamma[1:], gamma[:-1], strict=True):
        inside = drawn[(drawn >= low) & (drawn < high)]
        assert len(inside) / len(drawn) == pytest.approx(1 / 3, abs=0.02)
        assert inside.mean().item() == pytest.approx((low + high).item() / 2, abs=0.01)
        assert inside.std().item() == pytest.approx((high - low).item() / 12**0.5, rel=0.05)


def test_schedules_of_any_length_end_with_about_the_same_noise() -> None:
    for steps in (50, 500, 2000):
        gamma = linear_schedule(steps)
        assert len(gamma) == steps + 1
        assert 1e-6 < gamma[-1] < 1e-4
    assert torch.equal(linear_schedule(2000), alpha_bar_schedule(2000, 1e-6, 1e-2))


def test_the_level_is_told_finely() -> None:
    gamma = torch.tensor([0.0, 0.25, 0.25002, 1.0])
    assert told_level(gamma).tolist() == [0, 5000, 5000, 10_000]
    assert told_level(linear_schedule(50)[1:]).unique().numel() == 50


@pytest.mark.parametrize("p", [1, 2])
def test_the_loss_is_that_of_equation_6(p: int) -> None:
    method = small(p=p)
    degraded, clean = 2 * images(3) - 1, 2 * images(3, seed=1) - 1
    torch.manual_seed(5)
    found = method.loss(degraded, clean)
    torch.manual_seed(5)
    noise, gamma = torch.randn_like(clean), drawn_levels(method.gamma, 3)
    errors = []
    for x, y, eps, level in zip(degraded, clean, noise, gamma, strict=True):
        noised = level.sqrt() * y + (1 - level).sqrt() * eps
        told = method.network(torch.cat([x, noised])[None], told_level(level[None]))[0]
        errors.append((told - eps).abs() ** p)
    torch.testing.assert_close(found, torch.stack(errors).mean())


def test_images_are_made_as_algorithm_2_says(monkeypatch: pytest.MonkeyPatch) -> None:
    method, image = small(large_variance=True), images(1)
    # its estimates of y_0 are not cut where they lie in [-1, 1], as in the paper
    monkeypatch.setattr(
        method.averaged.network, "forward", lambda shown, t: 0.9 * shown[:, 1:] + 0.01 * shown[:, :1]
    )
    generator = torch.Generator().manual_seed(mix(0, 0))
    y, gamma = torch.randn(1, 1, 8, 8, generator=generator), method.inference_gamma
    for t in range(4, 0, -1):
        alpha = gamma[t] / gamma[t - 1]
        told = 0.9 * y + 0.01 * (2 * image - 1)
        estimate = ((y - (1 - gamma[t]).sqrt() * told) / gamma[t].sqrt()).clamp(-1, 1)
        told = (y - gamma[t].sqrt() * estimate) / (1 - gamma[t]).sqrt()
        z = torch.randn(1, 1, 8, 8, generator=generator) if t > 1 else 0.0
        y = (y - (1 - alpha) / (1 - gamma[t]).sqrt() * told) / alpha.sqrt() + (1 - alpha).sqrt() * z
    found = method.restore(image)
    torch.testing.assert_close(found["restored"], (y / 2 + 0.5).clamp(0, 1), atol=1e-3, rtol=0)
    assert torch.equal(found["stages"][:, -1], found["restored"])


def test_noise_is_left_in_large_steps_by_the_large_variance_alone() -> None:
    gamma = linear_schedule(10)
    # what each adds before the last step, which expects a level of noise of 1 - gamma_1
    large = 1 - gamma[2] / gamma[1]
    assert large > 100 * (1 - gamma[1])
    assert large * (1 - gamma[1]) / (1 - gamma[2]) < 1.01 * (1 - gamma[1])


def test_the_same_network_serves_with_any_number_of_steps() -> None:
    method, other = small(), small(sampling_steps=9, T=30)
    other.load_state_dict(method.state_dict())
    assert other.restore(images())["restored"].shape == (2, 1, 8, 8)
    assert "gamma" not in method.state_dict()


def test_what_is_made_depends_on_the_degraded_image_and_on_the_seed() -> None:
    method = small()
    found = method.restore(images(), seed=1)["restored"]
    assert torch.equal(found, method.restore(images(), seed=1)["restored"])
    assert not torch.equal(found, method.restore(images(), seed=2)["restored"])
    assert not torch.equal(found, method.restore(images(seed=3), seed=1)["restored"])
    torch.testing.assert_close(
        method.restore(images()[1:], seed=1, first=1)["restored"], found[1:], atol=1e-5, rtol=0
    )


def test_the_regressor_learns_the_squared_error_of_the_image() -> None:
    method = Regressor(**SMALL).prepare(INFO).eval()  # type: ignore[arg-type]
    image, clean = images(), images(seed=1)
    answer = method.network(2 * image - 1, torch.full((2,), 10_000))
    expected = (answer - (2 * clean - 1)).square().mean()
    torch.testing.assert_close(method.training_step({"image": image, "clean": clean}, 0), expected)


@pytest.mark.parametrize("kind", ["downsample2", "lines"])
def test_any_degradation_is_learnt(kind: str) -> None:
    data = pinakes.load_data(f"digits?n=20&size=8&degradation={kind}", task="restoration")
    for method in (SR3(**SMALL, sampling_steps=2), Regressor(**SMALL)):  # type: ignore[arg-type]
        found = method.fit(data, steps=2, batch_size=8).evaluate(data)
        assert sorted(found) == ["fid", "perceptual", "psnr", "ssim"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"T": 0}, "T: expected a whole number of 1 or more"),
        ({"p": 3}, "p: expected 1 or 2, got 3"),
        ({"sampling_steps": 0}, "sampling_steps: expected a whole number of 1 or more"),
        ({"average": 1.0}, "average: expected a share"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(pinakes.UserError, match=message):
        SR3(**options)  # type: ignore[arg-type]
