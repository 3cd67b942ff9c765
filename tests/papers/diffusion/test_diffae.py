import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pinakes
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, q_sample
from pinakes.papers.diffusion.diffae import (
    AdaptiveBlock,
    Codes,
    DiffAE,
    GuidedUNet,
    LatentNetwork,
    SemanticEncoder,
    adaptive_group_norm,
    spherical,
)

SMALL = {
    "n_channels": 8,
    "ch_mults": (1, 2),
    "sampling_steps": 4,
    "d": 6,
    "latent_width": 16,
    "latent_layers": 3,
    "dropout": 0.0,
}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))


def small(**options: object) -> DiffAE:
    method = DiffAE(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]
    # so that codes matter as they do after training
    for module in method.averaged.network.modules():
        if isinstance(module, AdaptiveBlock) and hasattr(module, "meaning"):
            torch.nn.init.normal_(module.meaning.weight)
    return method


def test_adaptive_group_norm_is_what_a_loop_over_channels_gives() -> None:
    normal, step, meaning = torch.randn(2, 3, 4, 5), torch.randn(2, 6), torch.randn(2, 3)
    expected = torch.empty_like(normal)
    for place in range(2):
        for channel in range(3):
            scale, shift = 1 + step[place, channel], step[place, 3 + channel]
            inner = scale * normal[place, channel] + shift
            expected[place, channel] = (1 + meaning[place, channel]) * inner
    torch.testing.assert_close(adaptive_group_norm(normal, step, meaning), expected)


def test_an_untold_block_is_one_that_is_told_nothing_but_zeros() -> None:
    torch.manual_seed(0)
    told = AdaptiveBlock(8, 16, attentive=True, dropout=0.0, told=4, d=3)
    for module in (told.step[1], told.meaning):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    plain = AdaptiveBlock(8, 16, attentive=True, dropout=0.0)
    plain.load_state_dict({name: told.state_dict()[name] for name in plain.state_dict()})
    maps = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(plain(maps), told(maps, torch.randn(2, 4), torch.randn(2, 3)))


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (9, 13)])
def test_networks_take_images_of_any_size(rows: int, columns: int) -> None:
    form = (3, 8, (1, 2, 2), 2, 0.0, 5)
    image, t = torch.randn(2, 3, rows, columns), torch.tensor([3, 900])
    code = SemanticEncoder(*form)(image)
    assert code.shape == (2, 5)
    assert GuidedUNet(*form)(image, t, code).shape == image.shape


def test_each_layer_of_the_latent_network_sees_the_vector() -> None:
    network, noised = LatentNetwork(4, 8, 3), torch.randn(2, 4)
    told = network.tell(torch.cat([angle_of(t) for t in (7, 500)]))
    hidden = network.layers[0](noised)
    hidden = torch.nn.functional.silu(network.norms[0](hidden * (1 + network.scales[0](told))))
    hidden = network.layers[1](torch.cat([hidden, noised], dim=1))
    hidden = torch.nn.functional.silu(network.norms[1](hidden * (1 + network.scales[1](told))))
    expected = network.leave(torch.cat([hidden, noised], dim=1))
    torch.testing.assert_close(network(noised, torch.tensor([7, 500])), expected, atol=1e-5, rtol=1e-4)


def angle_of(t: int) -> Tensor:
    angles = [t * 10_000 ** (-place / 32) for place in range(32)]
    return torch.tensor([[math.sin(each) for each in angles] + [math.cos(each) for each in angles]])


def test_the_loss_is_the_squared_error_of_noise_with_the_code_of_the_clean_image() -> None:
    method, clean = small(foretold="noise"), 2 * torch.rand(3, 1, 8, 8) - 1
    torch.nn.init.normal_(method.network.decoder.leave[-1].weight)
    torch.manual_seed(0)
    found = method.loss(clean, None)
    torch.manual_seed(0)
    t, noise = torch.randint(1, 1001, (3,)), torch.randn_like(clean)
    total = 0.0
    for place in range(3):
        one = slice(place, place + 1)
        noised = q_sample(clean[one], noise[one], alpha_bar_schedule(1000)[t[one]])
        told = method.network.decoder(noised, t[one], method.network.encoder(clean[one]))
        total += (told - noise[one]).square().mean().item() / 3
    assert found.item() == pytest.approx(total, rel=1e-4)


def test_an_arc_is_walked_at_an_even_pace() -> None:
    one = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 1.0]])
    found = spherical(one, other, torch.tensor([0.5, 0.0, 1 / 3]))
    expected = torch.tensor([[2**0.5, 2**0.5], [1.0, 0.0], [3**0.5 / 2, 0.5]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    noise = torch.randn(2, 4, 3, 8, 8)
    middle = spherical(noise[0], noise[1], torch.full((4,), 0.5))
    assert middle.std().item() == pytest.approx(1, abs=0.1)
    same = spherical(noise[0], noise[0], torch.full((4,), 0.5))
    torch.testing.assert_close(same, noise[0], atol=1e-3, rtol=0)


def test_both_codes_lead_back_to_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    method, spread = small(sampling_steps=40), 0.3

    def best(noised: Tensor, t: Tensor, label: None, code: Tensor) -> Tensor:
        """The mean of x_0 given x_t, where images are normal around what the first number of a code says."""
        kept, mean = method.alpha_bar[t].view(-1, 1, 1, 1), code[:, :1, None, None].tanh()
        gain = kept.sqrt() * spread**2 / (kept * spread**2 + 1 - kept)
        return mean + gain * (noised - kept.sqrt() * mean)

    monkeypatch.setattr(method, "denoise", best)
    image = torch.rand(4, 1, 8, 8)
    codes = method.codes(image)
    torch.testing.assert_close(codes.semantic, method.averaged.network.encoder(2 * image - 1))
    torch.testing.assert_close(method.images(codes), image, atol=2e-3, rtol=0)
    other = Codes(codes.semantic + 1, codes.stochastic)
    assert (method.images(other) - image).abs().mean() > 0.05


def test_images_depend_on_their_semantic_codes() -> None:
    method, noise = small(), torch.randn(2, 1, 8, 8)
    one, other = (method.images(Codes(code, noise)) for code in torch.randn(2, 2, 6))
    assert not torch.allclose(one, other)


def test_a_way_between_images_leads_from_one_to_the_other() -> None:
    method, (one, other) = small(), torch.rand(2, 3, 1, 8, 8)
    found = method.interpolate(one, other, count=5)
    assert found.shape == (3, 5, 1, 8, 8)
    for place, image in ((0, one), (-1, other)):
        torch.testing.assert_close(found[:, place], method.images(method.codes(image)), atol=1e-4, rtol=0)
    codes, ends = method.codes(one), method.codes(other)
    middle = Codes((codes.semantic + ends.semantic) / 2, spherical(codes[1], ends[1], torch.full((3,), 0.5)))
    torch.testing.assert_close(found[:, 2], method.images(middle), atol=1e-4, rtol=0)
    with pytest.raises(pinakes.UserError, match="count"):
        method.interpolate(one, other, count=1)


def test_a_direction_leads_to_what_images_with_the_attribute_have_more_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = small()
    code = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(method, "semantic", lambda image: code[: len(image)])
    true = torch.tensor([1.0, -2.0, 0.0, 0.0, 1.0, 0.0])
    found = method.direction(torch.rand(400, 1, 8, 8), code @ true > 0)
    assert found.norm().item() == pytest.approx(1, abs=1e-5)
    assert torch.cosine_similarity(found, true, dim=0) > 0.98
    with pytest.raises(pinakes.UserError, match="has"):
        method.direction(torch.rand(2, 1, 8, 8), torch.tensor([True, True]))


def test_manipulation_moves_the_normalised_code_alone() -> None:
    method, image = small(), torch.rand(2, 1, 8, 8)
    method.code_mean.normal_()
    method.code_deviation.uniform_(0.5, 2)
    direction = torch.nn.functional.normalize(torch.randn(6), dim=0)
    codes = method.codes(image)
    moved = codes.semantic + 0.5 * 6**0.5 * direction * method.code_deviation
    found = method.manipulate(image, direction, 0.5)
    torch.testing.assert_close(found, method.images(Codes(moved, codes.stochastic)), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        method.manipulate(image, direction, 0.0), method.images(codes), atol=1e-4, rtol=0
    )


def test_the_second_model_learns_where_codes_lie() -> None:
    method = small(d=2, latent_width=32, sampling_steps=20, average=0.9)
    side = torch.where(torch.arange(200) % 2 == 0, 1.0, -1.0)[:, None]
    code = torch.cat([5 + 3 * side, 0.1 * side], dim=1)
    torch.manual_seed(0)
    method.learn_codes(code, steps=300)
    found = method.new_codes(torch.randn(200, 2))
    near = torch.cdist(method.normalised(found), method.normalised(code)).min(1).values
    # of normal noise a tenth lies as near
    assert (near < 0.5).float().mean() > 0.6
    assert 0.25 < (found[:, 0] > 5).float().mean() < 0.75
    assert not any(each.requires_grad for each in method.latent.parameters())


def test_the_encoder_is_left_alone_when_codes_are_learnt() -> None:
    method, code = small(), torch.randn(20, 6)
    before = [each.clone() for each in method.network.parameters()]
    method.learn_codes(code, steps=2)
    assert all(
        torch.equal(one, other) for one, other in zip(before, method.network.parameters(), strict=True)
    )
    torch.testing.assert_close(method.normalised(code).mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(method.normalised(code).std(0, correction=0), torch.ones(6))
    torch.testing.assert_close(method.unnormalised(method.normalised(code)), code)


def test_a_picture_can_be_made_before_codes_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pinakes.papers.diffusion.base.PICTURE_EVERY", 0.0)
    DiffAE(**SMALL).fit("digits?size=8&n=40&channels=1", steps=1, batch_size=8, out=tmp_path)  # type: ignore[arg-type]
    assert [each.name for each in (tmp_path / "pictures").iterdir()] == ["step-0000001.png"]
    again = pinakes.load(tmp_path)
    assert again.makes_codes
    assert again.steps_taken == 1


def test_images_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="image"):
        small().codes(2 * torch.ones(1, 1, 8, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"d": 0},
        {"latent_width": 0},
        {"latent_layers": 1},
        {"sampler": "ddpm"},
        {"classes": True},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DiffAE(**options)  # type: ignore[arg-type]
