import pytest
import torch

import pinakes
from pinakes.nn.gaussian_diffusion import (
    alpha_bar_schedule,
    epsilon_loss,
    predicted_clean,
    q_sample,
    step_embedding,
)
from pinakes.nn.unet import SelfAttention, UNet
from pinakes.papers.self_supervised.ddae import DDAE

INFO = pinakes.DataInfo(3, (16, 20))


def small(**options: object) -> DDAE:
    return DDAE(n_channels=8, **options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_the_schedule_is_the_product_of_what_each_step_leaves() -> None:
    found = alpha_bar_schedule(1000, 1e-4, 0.02)
    left, expected = 1.0, [1.0]
    for step in range(1000):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
        expected.append(left)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=0)


def test_noise_in_one_go_is_distributed_as_noise_step_by_step() -> None:
    alpha_bar = alpha_bar_schedule(20, 0.01, 0.2)
    torch.manual_seed(0)
    walked = torch.full((200_000,), 1.5)
    for step in range(1, 21):
        alpha = alpha_bar[step] / alpha_bar[step - 1]
        walked = alpha.sqrt() * walked + (1 - alpha).sqrt() * torch.randn_like(walked)
    jumped = q_sample(torch.full((200_000,), 1.5), torch.randn(200_000), alpha_bar[20].expand(200_000))
    torch.testing.assert_close(walked.mean(), jumped.mean(), rtol=0, atol=0.02)
    torch.testing.assert_close(walked.std(), jumped.std(), rtol=0, atol=0.02)


def test_the_clean_image_is_found_again_from_the_true_noise() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9, 0.5, 0.01], dtype=torch.float64)
    torch.testing.assert_close(predicted_clean(q_sample(clean, noise, alpha_bar), noise, alpha_bar), clean)


def test_the_loss_of_a_network_that_knows_the_images_is_0_and_of_one_that_says_nothing_1() -> None:
    alpha_bar = alpha_bar_schedule()
    clean = torch.rand(64, 1, 8, 8)

    class Knowing(torch.nn.Module):
        def forward(self, noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            kept = alpha_bar[t].view(-1, 1, 1, 1)
            return (noised - kept.sqrt() * clean) / (1 - kept).sqrt()

    class Silent(torch.nn.Module):
        def forward(self, noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(noised)

    torch.manual_seed(0)
    assert epsilon_loss(Knowing(), clean, alpha_bar) < 1e-6
    torch.testing.assert_close(epsilon_loss(Silent(), clean, alpha_bar), torch.tensor(1.0), rtol=0, atol=0.1)


def test_steps_far_apart_are_told_apart() -> None:
    found = step_embedding(torch.tensor([0, 1, 1000]), 32)
    assert torch.equal(found[0], torch.tensor([0.0] * 16 + [1.0] * 16))
    assert torch.cdist(found, found)[~torch.eye(3, dtype=torch.bool)].min() > 0.5


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(16)
    theirs = torch.nn.MultiheadAttention(16, 1, batch_first=True)
    maps = torch.randn(2, 16, 3, 5)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.ask.weight[:, :, 0, 0])
        theirs.in_proj_bias.copy_(ours.ask.bias)
        theirs.out_proj.weight.copy_(ours.project.weight[:, :, 0, 0])
        theirs.out_proj.bias.copy_(ours.project.bias)
        pixels = ours.norm(maps).flatten(2).mT
        expected = maps + theirs(pixels, pixels, pixels)[0].mT.unflatten(2, (3, 5))
        torch.testing.assert_close(ours(maps), expected, rtol=1e-4, atol=1e-5)


def test_features_are_what_the_whole_network_computes_at_that_block() -> None:
    network = UNet(1, 8, (1, 2, 4), n_blocks=2).eval()
    image, t = torch.rand(2, 1, 18, 21), torch.tensor([1, 400])
    seen: list[torch.Tensor] = []
    for block in network.up:
        block.register_forward_hook(lambda _, __, answer: seen.append(answer))
    network(image, t)
    whole = list(seen)
    assert [each.shape[1:] for each in whole[::3]] == [(32, 5, 6), (16, 9, 11), (8, 18, 21)]
    for layer in range(1, network.layers + 1):
        seen.clear()
        torch.testing.assert_close(network.features(image, t, layer), whole[layer - 1])
        assert len(seen) == layer


def test_no_gradient_reaches_behind_the_block_that_is_read() -> None:
    method = small(layer=3)
    method.encode(torch.rand(2, 3, 16, 20))["embedding"].sum().backward()
    reached = [any(each.grad is not None for each in block.parameters()) for block in method.network.up]
    assert reached == [True] * 3 + [False] * 3
    assert all(each.grad is not None for each in method.network.down.parameters())


def test_the_same_image_has_the_same_features_every_time_and_in_every_order() -> None:
    method, image = small(t=500), torch.rand(4, 3, 16, 20)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, second = (method.encode(each)["features"] for each in (image, image.flip(0)))
    torch.testing.assert_close(first, second.flip(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "options",
    [
        {"t": 1001},
        {"layer": 7},
        {"n_channels": 12},
        {"n_T": 0},
        {"ch_mults": []},
        {"n_blocks": 0},
        {"dropout": 1.0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DDAE(**options)  # type: ignore[arg-type]
