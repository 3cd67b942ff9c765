import pytest
import torch
from torch import nn

import pinakes
from pinakes.nn.gaussian_diffusion import alpha_bar_schedule, posterior, q_sample
from pinakes.nn.masked_autoencoder import masking_from, patchify
from pinakes.nn.painting import GREY
from pinakes.papers.self_supervised.diffmae import CrossAttention, DiffMAE, inpainted
from pinakes.papers.self_supervised.transformer import hidden_patches

INFO = pinakes.DataInfo(3, (16, 24))
FORMS = pytest.mark.parametrize(
    "options",
    [
        {"decoder": "cross-self"},
        {"decoder": "cross"},
        {"decoder": "joint", "skip": False},
        {"decoder": "cross-self", "skip": False},
    ],
)


def small(**options: object) -> DiffMAE:
    return DiffMAE(depth=2, embed_dim=32, decoder_embed_dim=32, **options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_the_exponent_is_that_of_each_variance() -> None:
    found = alpha_bar_schedule(100, rho=0.8)
    left, expected = 1.0, [1.0]
    for step in range(100):
        left *= 1 - (1e-4 + (0.02 - 1e-4) * step / 99) ** 0.8
        expected.append(left)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=0)


def test_the_posterior_is_that_of_bayes() -> None:
    # x_s = sqrt(a_s) x_0 + ..., x_t = sqrt(a) x_s + ...: two normal densities of x_s, multiplied
    clean, noised = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    alpha_bar, earlier = torch.tensor([0.3, 0.6], dtype=torch.float64)
    alpha = alpha_bar / earlier
    precision = 1 / (1 - earlier) + alpha / (1 - alpha)
    expected = (earlier.sqrt() * clean / (1 - earlier) + alpha.sqrt() * noised / (1 - alpha)) / precision
    mean, variance = posterior(noised, clean, alpha_bar, earlier)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, 1 / precision)


def test_samples_of_a_perfect_denoiser_are_distributed_as_the_data() -> None:
    # of data from a normal distribution, the best guess of x_0 is known
    alpha_bar = alpha_bar_schedule()
    spread, centre = 0.5, 2.0

    def denoise(noised: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        kept = alpha_bar[t][:, None, None]
        gain = spread**2 * kept.sqrt() / (kept * spread**2 + 1 - kept)
        return centre + gain * (noised - kept.sqrt() * centre)

    noise = torch.randn(250, 1, 100, 50, generator=torch.Generator().manual_seed(0))
    found = inpainted(denoise, noise, alpha_bar)
    assert abs(found.mean() - centre) < 0.03
    assert abs(found.std() - spread) < 0.03


def test_cross_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = CrossAttention(64, 32)
    theirs = nn.MultiheadAttention(64, 2, kdim=32, vdim=32, batch_first=True)
    hidden, visible = torch.randn(2, 5, 64), torch.randn(2, 3, 32)
    with torch.no_grad():
        for name in ("query", "key", "value"):
            getattr(theirs, f"{name[0]}_proj_weight").copy_(getattr(ours, name).weight)
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(64), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.project.state_dict())
        expected, _ = theirs(ours.norm(hidden), visible, visible)
        torch.testing.assert_close(ours(hidden, visible), expected, rtol=1e-4, atol=1e-5)


@FORMS
def test_what_is_hidden_is_filled_without_a_look_at_it(options: dict[str, object]) -> None:
    method = small(**options)
    masking = masking_from(torch.rand(2, 24, generator=torch.Generator().manual_seed(0)), 0.75)
    image, other = torch.rand(2, 2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    covered = masking.hidden.view(2, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.randn(4, 2, 18, 48)
    with torch.no_grad():
        first = method.inpaint(image, masking, noise)
        second = method.inpaint(torch.where(covered, other, image), masking, noise)
        third = method.inpaint(other, masking, noise)
    torch.testing.assert_close(first, second)
    assert (first - third)[masking.hidden].abs().max() > 1e-3


@FORMS
def test_every_trained_parameter_learns(options: dict[str, object]) -> None:
    method = small(**options)
    torch.manual_seed(0)
    method.loss(torch.rand(4, 3, 16, 24)).backward()
    trained = [each for each in method.parameters() if each.requires_grad]
    assert all(each.grad is not None and each.grad.any() for each in trained)


def test_hidden_patches_look_at_each_other_only_where_they_are_to() -> None:
    masking = masking_from(torch.rand(1, 24, generator=torch.Generator().manual_seed(0)), 0.75)
    noised = torch.randn(1, 18, 48, generator=torch.Generator().manual_seed(0))
    other = noised.clone()
    other[:, 0] += 1
    for form, changes in (("cross", False), ("cross-self", True), ("joint", True)):
        method = small(decoder=form, skip=False)
        with torch.no_grad():
            answers = method.encoder.after(torch.full((1, 3, 16, 24), 0.3), [2], masking.visible)
            t = torch.tensor([500])
            first, second = (method.decoder(each, t, answers, masking)[:, 1:] for each in (noised, other))
        assert ((first - second).abs().max() > 1e-6) == changes


def test_later_blocks_look_at_earlier_answers() -> None:
    assert DiffMAE(depth=6, decoder_depth=3).prepare(pinakes.DataInfo(3, (32, 32))).linked == [6, 4, 2]
    assert DiffMAE(depth=6, skip=False).prepare(pinakes.DataInfo(3, (32, 32))).linked == [6]


def test_the_loss_is_the_error_of_clean_hidden_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    method, image = small(), torch.rand(2, 3, 16, 24)
    seen: list[torch.Tensor] = []

    def perfect(noised: torch.Tensor, t: torch.Tensor, _: object, masking: object) -> torch.Tensor:
        seen.append(noised)
        pixels = patchify((image - 0.45) / 0.225, 4)
        places = hidden_patches(masking)  # type: ignore[arg-type]
        return pixels.gather(1, places[:, :, None].expand(-1, -1, 48))

    monkeypatch.setattr(method.decoder, "forward", perfect)
    assert method.loss(image) < 1e-10
    assert seen[0].shape == (2, 18, 48)


def test_noise_is_weighed_by_image() -> None:
    clean, noise = torch.ones(2, 1, 1), torch.full((2, 1, 1), 3.0)
    found = q_sample(clean, noise, torch.tensor([1.0, 0.25]))
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 0.5 + 3 * 0.75**0.5]))


def test_pictures_are_grey_where_patches_are_hidden_and_the_same_every_time() -> None:
    method, image = small(), torch.rand(3, 3, 16, 24)
    before = torch.get_rng_state()
    with torch.no_grad():
        first, alone = method.painted(image), method.painted(image[1:2])
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(first["reconstruction"][1:2], alone["reconstruction"], rtol=0, atol=1e-4)
    hidden = (patchify(first["shown"], 4) == GREY).all(2)
    assert hidden.sum(1).tolist() == [18] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"skip": True, "decoder": "joint"},
        {"rho": 0.0},
        {"diffusion_steps": 0},
        {"decoder_embed_dim": 50},
        {"decoder_depth": 7},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DiffMAE(**options)  # type: ignore[arg-type]
