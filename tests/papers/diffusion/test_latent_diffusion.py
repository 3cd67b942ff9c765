import math
from pathlib import Path

import pytest
import torch

import pinakes
from pinakes.data import load_data
from pinakes.papers.diffusion.latent_diffusion import (
    ClassTokens,
    ConditionalUNet,
    CrossAttention,
    LatentDiffusion,
    SpatialTransformer,
    StoredLatents,
    TokenEncoder,
    latent_scale,
    layout_tokens,
)

SMALL = {"n_channels": 8, "ch_mults": (1, 2), "sampling_steps": 3, "autoencoder_width": 8, "token_width": 8}
INFO = pinakes.DataInfo(1, (16, 12), ("zero", "one"))


def small(**options: object) -> LatentDiffusion:
    return LatentDiffusion(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def test_cross_attention_is_that_of_a_loop_over_places_and_heads() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(width=6, told=5, heads=2)
    places, tokens = torch.randn(2, 4, 6), torch.randn(2, 3, 5)
    found = attention(places, tokens)
    for b in range(2):
        for place in range(4):
            said = []
            for head in range(2):
                part = slice(3 * head, 3 * head + 3)
                query = attention.query.weight[part] @ places[b, place]
                scores = [query @ (attention.key.weight[part] @ token) / math.sqrt(3) for token in tokens[b]]
                share = torch.stack(scores).softmax(0)
                values = [attention.value.weight[part] @ token for token in tokens[b]]
                said.append(sum(s * v for s, v in zip(share, values, strict=True)))
            expected = attention.out.weight @ torch.cat(said) + attention.out.bias
            torch.testing.assert_close(found[b, place], expected, atol=1e-6, rtol=1e-5)


def test_tokens_are_a_set_to_who_attends_to_them() -> None:
    torch.manual_seed(0)
    transformer, maps, tokens = SpatialTransformer(16, 8, 2), torch.randn(1, 16, 3, 4), torch.randn(1, 5, 8)
    torch.testing.assert_close(
        transformer(maps, tokens.flip(1)), transformer(maps, tokens), atol=1e-5, rtol=0
    )
    assert not torch.allclose(transformer(maps, 2 * tokens), transformer(maps, tokens), atol=1e-3)


def test_latents_get_variance_one_over_all_their_values() -> None:
    latent = 3 + 5 * torch.randn(20, 4, 6, 6)
    scaled = latent_scale(latent) * latent
    assert scaled.var(correction=0).item() == pytest.approx(1, rel=1e-5)


def test_boxes_become_the_cells_of_their_corners_and_their_class() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 64.0, 32.0], [17.0, 9.0, 40.0, 31.9]]])
    # 32 rows and 64 columns: cells of 8 rows and 16 columns
    found = layout_tokens(boxes, torch.tensor([[0, 3]]), (32, 64), cells=4)
    assert found.tolist() == [[0, 15, 16, 4 + 1, 12 + 2, 16 + 3]]


def test_the_encoder_of_captions_reads_words_in_their_order() -> None:
    torch.manual_seed(0)
    encoder = TokenEncoder(vocabulary=9, width=16, length=6).eval()
    one, other = torch.tensor([[1, 2, 3]]), torch.tensor([[3, 2, 1]])
    assert encoder(one).shape == (1, 3, 16)
    assert not torch.allclose(encoder(one).flip(1), encoder(other), atol=1e-3)


@pytest.mark.parametrize("told", ["caption", "layout"])
def test_the_network_learns_to_follow_captions_and_layouts(told: str) -> None:
    torch.manual_seed(0)
    if told == "caption":
        numbers = torch.tensor([[1, 2], [2, 1]])
    else:
        boxes = torch.tensor([[[0.0, 0.0, 4.0, 8.0]], [[4.0, 0.0, 8.0, 8.0]]])
        numbers = layout_tokens(boxes, torch.zeros(2, 1, dtype=torch.int64), (8, 8), cells=4)
    encoder = TokenEncoder(vocabulary=20, width=16, depth=1)
    network = ConditionalUNet(1, 8, (1, 2), dropout=0.0, told=16)
    image, t = torch.zeros(2, 1, 8, 8), torch.tensor([5, 5])
    wanted = torch.zeros(2, 1, 8, 8)
    wanted[0, :, :, :4], wanted[1, :, :, 4:] = 1, 1
    optimiser = torch.optim.Adam([*encoder.parameters(), *network.parameters()], 3e-3)
    for _ in range(80):
        error = (network(image, t, encoder(numbers)) - wanted).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
    # without the tokens the best answer to both is one half everywhere, an error of 0.25
    assert error < 0.05


@pytest.mark.parametrize("regularisation", ["kl", "vq"])
def test_latents_have_fewer_rows_and_come_back_as_images(regularisation: str) -> None:
    method = small(regularisation=regularisation)
    image = torch.rand(2, 1, 16, 12)
    latent = method.encode(image)
    assert latent.shape == (2, *method.shape(INFO)) == (2, 4, 4, 3)
    assert method.decode(latent).shape == image.shape
    assert method.sample(2, seed=0).shape == image.shape


def test_latents_of_kl_are_drawn_and_their_estimates_are_not_cut() -> None:
    method, image = small(), torch.rand(2, 1, 16, 12)
    assert not torch.equal(method.encode(image), method.encode(image))
    assert method.denoise(100 * torch.ones(2, 4, 4, 3), torch.tensor([10, 10])).abs().max() > 10


def test_without_a_factor_it_is_diffusion_on_pixels() -> None:
    method, image = small(factor=1), torch.rand(2, 1, 16, 12)
    assert method.autoencoder is None
    assert method.shape(INFO) == (1, 16, 12)
    torch.testing.assert_close(method.encode(image), 2 * image - 1)
    assert method.denoise(100 * torch.ones(2, 1, 16, 12), torch.tensor([10, 10])).abs().max() <= 1


def test_the_class_is_told_by_a_token() -> None:
    tokens = ClassTokens(2, 8)
    assert torch.equal(tokens(torch.tensor([-1, 1]))[:, 0], tokens.embedding.weight[[2, 1]])
    method = small()
    one, other = (method.sample(2, labels=torch.full((2,), label), seed=0) for label in (0, 1))
    assert not torch.equal(one, other)
    assert small(classes=False).network.condition is None


def test_the_autoencoder_is_trained_first_and_then_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    step = LatentDiffusion.training_step

    def noted(method: LatentDiffusion, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        seen.append((method.autoencoder.paint.weight.clone(), batch))
        return step(method, batch, index)

    monkeypatch.setattr(LatentDiffusion, "training_step", noted)
    method = LatentDiffusion(**SMALL).prepare(pinakes.DataInfo(1, (16, 16), tuple("0123456789")))
    fresh = method.autoencoder.paint.weight.clone()
    method.fit("digits?size=16&channels=1&n=40", steps=3, batch_size=8)
    assert len(seen) == 3
    for weight, batch in seen:
        assert not torch.equal(weight, fresh)
        assert torch.equal(weight, method.autoencoder.paint.weight)
        assert batch["said"].shape[1:] == (8, 4, 4)
    assert not any(each.requires_grad for each in method.autoencoder.parameters())


def test_latents_are_stored_as_they_are_found_and_not_where_images_are_mirrored() -> None:
    data = load_data("digits?size=16&channels=1&n=40", task="generation")
    method = LatentDiffusion(**SMALL).prepare(data.info)
    kept = method._stored(method.autoencoder, data)
    assert isinstance(kept, StoredLatents)
    sample = data.train[7]
    torch.testing.assert_close(kept[7]["said"], method.autoencoder.said(sample["image"][None])[0])
    assert kept[7]["label"] == int(sample["label"])
    assert LatentDiffusion(mirror=True, **SMALL).prepare(data.info)._stored(method.autoencoder, data) is None


def test_a_run_that_is_resumed_keeps_its_autoencoder(tmp_path: Path) -> None:
    whole = LatentDiffusion(**SMALL, autoencoder_steps=3)
    whole.fit("digits?size=16&channels=1&n=40", steps=10, batch_size=8)
    for steps in (5, 10):
        parts = LatentDiffusion(**SMALL, autoencoder_steps=3)
        parts.fit(
            "digits?size=16&channels=1&n=40",
            steps=steps,
            batch_size=8,
            out=tmp_path,
            resume=steps == 10,
            checkpoint_every=1e-6,
        )
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name


def test_the_time_of_the_autoencoder_counts(caplog: pytest.LogCaptureFixture) -> None:
    method = LatentDiffusion(**SMALL, autoencoder_steps=10**6, perceptual=0.0)
    method.fit("digits?size=16&channels=1&n=40", steps=10**6, batch_size=8, time_limit=1.0)
    assert "0.5 s are over" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 3},
        {"factor": 0},
        {"latent_channels": 0},
        {"codes": 1},
        {"kl_weight": -1.0},
        {"perceptual": -1.0},
        {"adversarial": -1.0},
        {"autoencoder_width": 12},
        {"autoencoder_steps": 0},
        {"token_width": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        LatentDiffusion(**options)  # type: ignore[arg-type]
