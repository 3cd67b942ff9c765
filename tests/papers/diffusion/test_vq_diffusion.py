from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.nn.discrete_diffusion import CategoricalSchedule, mask_and_replace, one_hot, q_sample
from pinakes.papers.diffusion.vq_diffusion import (
    AdaptiveLayerNorm,
    TokenTransformer,
    VQDiffusion,
    truncated,
    vq_diffusion_loss,
    with_mask,
)

SMALL = {"hidden_size": 16, "depth": 2, "num_heads": 2, "codes": 8, "T": 10, "sampling_steps": 3}
INFO = pinakes.DataInfo(1, (16, 8), ("zero", "one"))


def small(**options: object) -> VQDiffusion:
    return VQDiffusion(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def matrices(schedule: CategoricalSchedule, codes: int) -> list[torch.Tensor]:
    """Of all steps from 1, from the rows to the columns, the mask last: equation 7, transposed."""
    assert schedule.unmasked is not None
    found = [torch.eye(codes + 1, dtype=torch.float64)]
    for t in range(1, schedule.steps + 1):
        alpha, unmasked = (each[t] / each[t - 1] for each in (schedule.kept, schedule.unmasked))
        one = torch.zeros(codes + 1, codes + 1, dtype=torch.float64)
        one[:-1, :-1] = (unmasked - alpha) / codes
        one.diagonal()[:-1] += alpha
        one[:-1, -1] = 1 - unmasked
        one[-1, -1] = 1
        found.append(one)
    return found


def test_the_loss_is_that_of_a_sum_over_all_tokens() -> None:
    """Section 4 with transition matrices that are written out, for each place."""
    codes, steps = 3, 4
    schedule = CategoricalSchedule(*mask_and_replace(steps))
    one = matrices(schedule, codes)
    until = [one[0]]
    for matrix in one[1:]:
        until.append(until[-1] @ matrix)
    torch.manual_seed(0)
    clean, t = torch.randint(codes, (8, 5)), torch.arange(8) % steps + 1
    noised = q_sample(clean, schedule.until(t), codes + 1)
    chances = with_mask(torch.randn(8, codes, 5).softmax(1))
    term, loss = vq_diffusion_loss(chances, noised, clean, schedule, t, auxiliary=0.3)

    def before(step: int, first: int, now: int) -> torch.Tensor:
        joint = one[step][:, now] * until[step - 1][first]
        return joint / joint.sum()

    for sample in range(8):
        step, kl, said = int(t[sample]), 0.0, 0.0
        for place in range(5):
            first, now = int(clean[sample, place]), int(noised[sample, place])
            share = chances[sample, :codes, place].double()
            true = before(step, first, now)
            told = sum(share[code] * before(step, code, now) for code in range(codes))
            kl += float(torch.special.xlogy(true, true).sum() - torch.special.xlogy(true, told).sum())
            said -= float(share[first].log())
        assert term[sample].item() == pytest.approx(kl / 5, abs=1e-5)
        assert loss[sample].item() == pytest.approx((kl + 0.3 * said) / 5, abs=1e-5)


def test_at_the_first_step_the_bound_is_what_is_left_to_say() -> None:
    schedule = CategoricalSchedule(*mask_and_replace(5))
    clean, t = torch.tensor([[0, 1, 2]]), torch.tensor([1])
    chances = with_mask(torch.rand(1, 3, 3).softmax(1))
    term, loss = vq_diffusion_loss(chances, torch.tensor([[0, 3, 1]]), clean, schedule, t, 1.0)
    expected = -(one_hot(clean, 4) * chances.clamp(min=1e-30).log()).sum(1).mean()
    torch.testing.assert_close(term[0], expected)
    torch.testing.assert_close(loss[0], 2 * expected)


def test_truncation_keeps_the_likeliest_and_adds_up_to_one() -> None:
    chances = torch.tensor([[0.5, 0.3, 0.15, 0.05]])[:, :, None].expand(1, 4, 2)
    found = truncated(chances, 0.86)[0, :, 1]
    # the third begins below the share, at 0.8, and is kept
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.15, 0.0]) / 0.95)
    assert truncated(chances, 1e-6)[0, :, 0].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert truncated(chances, 1.0) is chances


def test_adaptive_norm_scales_and_shifts_by_its_number() -> None:
    norm, tokens = AdaptiveLayerNorm(6, 4), torch.randn(2, 5, 6)
    scale, shift = norm.told(torch.tensor([3])).chunk(2, dim=1)
    expected = torch.nn.functional.layer_norm(tokens[1], (6,)) * (1 + scale) + shift
    torch.testing.assert_close(norm(tokens, torch.tensor([0, 3]))[1], expected)


def test_the_network_knows_where_tokens_are_and_what_it_is_told() -> None:
    network = TokenTransformer((3, 4), codes=8, steps=10, hidden_size=16, depth=1, num_heads=2, classes=2)
    masks, t = torch.full((1, 3, 4), 8), torch.tensor([10])
    answer = network(masks, t, torch.tensor([0]))
    assert len(torch.unique(answer[0].flatten(1).T.round(decimals=5), dim=0)) == 12
    assert not torch.allclose(answer, network(masks, t, torch.tensor([1])))
    assert not torch.allclose(answer, network(masks, torch.tensor([1]), torch.tensor([0])))
    assert torch.equal(network(masks, t), network(masks, t, torch.tensor([-1])))


def test_samples_hold_no_masks_and_begin_with_almost_nothing_else() -> None:
    method = small(codes=16)
    generators = [torch.Generator().manual_seed(seed) for seed in range(20)]
    path = method.path(torch.empty(20, 4, 2), torch.zeros(20, dtype=torch.int64), generators)
    masked = [(each == 16).float().mean().item() for each in path]
    assert len(path) == 4
    assert masked[0] == pytest.approx(0.9, abs=0.1)
    assert masked[-1] == 0
    assert masked == sorted(masked, reverse=True)
    assert method.decode(path[0]).shape == (20, 1, 16, 8)


@pytest.mark.parametrize(("mask_rate", "share"), [(1.0, 1.0), (0.0, 0.0)])
def test_the_start_is_masks_only_or_none(mask_rate: float, share: float) -> None:
    method = small(mask_rate=mask_rate)
    path = method.path(torch.empty(2, 4, 2), None, [torch.Generator(), torch.Generator()])
    assert (path[0] == 8).float().mean() == share
    assert path[-1].max() < 8


def test_the_same_seed_gives_the_same_images() -> None:
    method = small()
    torch.testing.assert_close(method.sample(3, seed=1)[:2], method.sample(2, seed=1))
    assert not torch.equal(method.sample(2, seed=1), method.sample(2, seed=2))


@pytest.mark.parametrize("mirror", [False, True])
def test_it_learns_from_tokens_of_its_autoencoder(mirror: bool) -> None:
    method = VQDiffusion(autoencoder_steps=2, mirror=mirror, **SMALL)  # type: ignore[arg-type]
    method.fit("digits?n=40&channels=1", steps=2, batch_size=8)
    assert method.autoencoder.use.sum() > 0
    assert not any(each.requires_grad for each in method.autoencoder.parameters())


def test_a_run_that_is_resumed_keeps_its_autoencoder(tmp_path: Path) -> None:
    plan = {"batch_size": 8, "out": tmp_path}
    first = VQDiffusion(**SMALL).fit("digits?n=40", steps=2, **plan)  # type: ignore[arg-type]
    again = VQDiffusion(**SMALL).fit("digits?n=40", steps=3, resume=True, **plan)  # type: ignore[arg-type]
    assert torch.equal(first.autoencoder.codebook, again.autoencoder.codebook)


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 3},
        {"codes": 1},
        {"autoencoder_steps": 0},
        {"mask_rate": 1.1},
        {"auxiliary": -1.0},
        {"truncation": 0.0},
        {"T": 1, "sampling_steps": 1},
        {"sampling_steps": 101},
        {"hidden_size": 30},
        {"depth": 0},
        {"num_heads": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        VQDiffusion(**options)  # type: ignore[arg-type]
