import math

import pytest
import torch
from torch import Tensor

import pinakes
from pinakes.nn.diffusion_sampling import ancestral_path, ddim_path, spaced_steps
from pinakes.nn.gaussian_diffusion import q_sample
from pinakes.papers.diffusion.base import Diffusion
from pinakes.papers.diffusion.bit_diffusion import (
    BitDiffusion,
    analog_bits,
    asymmetric_path,
    codewords,
    cosine_schedule,
    read_bits,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 4, "bits": 3, "dropout": 0.0}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))
CODES = pytest.mark.parametrize("code", ["binary", "gray", "one-hot"])


def small(**options: object) -> BitDiffusion:
    method = BitDiffusion(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(method.averaged.network.leave[-1].weight, std=0.1)
    return method


def answer(noised: Tensor, t: Tensor) -> Tensor:
    """Stands in for a network."""
    return (noised * (1 + t.view(-1, *[1] * (noised.ndim - 1)) / 1000)).tanh()


def test_binary_codes_are_the_digits_of_numbers() -> None:
    for number, word in enumerate(codewords(5)):
        digits = "".join("1" if bit > 0 else "0" for bit in word.flip(0))
        assert int(digits, 2) == number


def test_neighbours_differ_in_one_place_of_a_gray_code() -> None:
    known = codewords(8, "gray")
    assert ((known[1:] != known[:-1]).sum(1) == 1).all()
    assert len(torch.unique(known, dim=0)) == 256


def test_a_one_hot_code_has_one_place_for_each_number() -> None:
    assert torch.equal(codewords(2, "one-hot"), 2 * torch.eye(4) - 1)


@CODES
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_numbers_are_read_from_bits_that_are_not_quite_theirs(bits: int, code: str) -> None:
    number = torch.randint(2**bits, (2, 3, 5, 4))
    analog = analog_bits(number, bits, code)  # type: ignore[arg-type]
    assert set(analog.unique().tolist()) == {-1.0, 1.0}
    near = analog + 1.9 * torch.rand_like(analog) - 0.95
    assert torch.equal(read_bits(near, bits, code), number)  # type: ignore[arg-type]


@CODES
def test_images_come_back_in_the_shades_that_there_are(code: str) -> None:
    method, image = small(code=code), torch.rand(2, 1, 8, 8)
    again = method.decode(method.encode(image))
    torch.testing.assert_close(again, (7 * image).round() / 7)
    assert method.encode(image).shape[1:] == method.shape(INFO)
    assert torch.equal(method.decode(method.encode(again)), again)


def test_samples_have_no_other_shades() -> None:
    shades = 7 * small().sample(4, seed=0)
    torch.testing.assert_close(shades, shades.round())


def test_the_noise_follows_a_cosine() -> None:
    found = cosine_schedule(1000)
    assert found[0] == 1
    for t in (1, 250, 500, 999, 1000):
        expected = math.cos((t / 1000 + 0.0002) / 1.00025 * math.pi / 2) ** 2
        assert found[t].item() == pytest.approx(expected, rel=1e-5)
    assert (found.diff() < 0).all()
    assert found[-1] > 0


@pytest.mark.parametrize("count", [6, 7])
def test_half_of_a_batch_learns_with_an_estimate_that_lets_no_gradient_through(count: int) -> None:
    method, label = small(), torch.arange(count) % 2
    torch.nn.init.normal_(method.network.leave[-1].weight, std=0.1)
    clean = method.encode(torch.rand(count, 1, 8, 8))
    torch.manual_seed(0)
    method.loss(clean, label).backward()
    found = [each.grad.clone() for each in method.network.parameters() if each.grad is not None]
    method.zero_grad()

    torch.manual_seed(0)
    t, noise = torch.randint(1, 1001, (count,)), torch.randn_like(clean)
    half = (count + int(torch.randint(2, ()))) // 2
    total = torch.zeros(())
    for place in range(count):
        one = slice(place, place + 1)
        kept = method.alpha_bar[t[one]]
        noised = q_sample(clean[one], noise[one], kept)
        estimate = torch.zeros_like(noised)
        if place < half:
            first = method.network(torch.cat([noised, estimate], dim=1), t[one], label[one])
            estimate = first.detach().clamp(-1, 1)
        told = method.network(torch.cat([noised, estimate], dim=1), t[one], label[one])
        total = total + (told - clean[one]).square().mean() / count
    total.backward()
    expected = [each.grad for each in method.network.parameters() if each.grad is not None]
    for one_found, one_expected in zip(found, expected, strict=True):
        torch.testing.assert_close(one_found, one_expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm"])
def test_each_estimate_is_shown_when_the_next_is_made(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if sampler == "dpm":
        pytest.importorskip("diffusers")
    method, seen, made = small(sampler=sampler), [], []
    inner = method.denoise

    def watched(noised: Tensor, t: Tensor, label: Tensor | None, estimate: Tensor | None) -> Tensor:
        seen.append(estimate)
        made.append(inner(noised, t, label, estimate))
        return made[-1]

    monkeypatch.setattr(method, "denoise", watched)
    method.sample(2, seed=0)
    assert len(made) == 4
    assert seen[0] is None
    assert all(shown is earlier for shown, earlier in zip(seen[1:], made, strict=False))


def test_samples_depend_on_what_the_network_was_shown() -> None:
    method, noised, t = small(), torch.randn(2, 3, 8, 8), torch.tensor([500, 20])
    alone = method.denoise(noised, t)
    torch.testing.assert_close(method.denoise(noised, t, None, torch.zeros_like(noised)), alone)
    assert not torch.allclose(method.denoise(noised, t, None, torch.ones_like(noised)), alone)


def test_without_its_additions_it_samples_as_any_diffusion_model() -> None:
    method = small(self_conditioning=False)
    generators = [torch.Generator().manual_seed(place) for place in range(2)]
    start = torch.randn(2, 3, 8, 8)
    expected = Diffusion.path(method, start, None, generators)[-1]
    torch.testing.assert_close(method.path(start, None, generators)[-1], expected)


def test_symmetric_steps_are_those_of_the_usual_samplers() -> None:
    alpha_bar, steps, start = cosine_schedule(1000), spaced_steps(1000, 7), torch.randn(3, 2, 4, 4)
    found = asymmetric_path(answer, start, alpha_bar, steps)
    torch.testing.assert_close(found, ddim_path(answer, start, alpha_bar, steps))
    noise = torch.randn(7, 3, 2, 4, 4)
    one, other = iter(noise), iter(noise)
    found = asymmetric_path(answer, start, alpha_bar, steps, 0.0, lambda: next(one))
    torch.testing.assert_close(found, ancestral_path(answer, start, alpha_bar, steps, lambda: next(other)))


def test_asymmetric_steps_are_those_of_algorithm_2() -> None:
    alpha_bar, start, count, td = cosine_schedule(1000), torch.randn(3, 2, 4, 4), 10, 1.5
    expected = start
    for step in range(count):
        now, later = 1 - step / count, max(1 - (step + 1 + td) / count, 0)
        before, behind = alpha_bar[round(1000 * now)], alpha_bar[round(1000 * later)]
        clean = answer(expected, torch.full((3,), round(1000 * now)))
        noise = (expected - before.sqrt() * clean) / (1 - before).sqrt()
        expected = behind.sqrt() * clean + (1 - behind).sqrt() * noise
    found = asymmetric_path(answer, start, alpha_bar, spaced_steps(1000, count), td)
    assert len(found) == count + 1
    torch.testing.assert_close(found[-1], expected)


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 0},
        {"bits": 9},
        {"td": -0.5},
        {"td": 1.0, "sampler": "dpm"},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    if "sampler" in options:
        pytest.importorskip("diffusers")
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        BitDiffusion(**options)  # type: ignore[arg-type]
