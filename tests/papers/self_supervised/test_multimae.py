from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import pinakes
from pinakes.nn.masked_autoencoder import (
    CENTRE,
    SPREAD,
    Masking,
    masking_from,
    patchify,
    reconstruction_loss,
)
from pinakes.nn.painting import GREY
from pinakes.papers.self_supervised.multimae import (
    ClassPatches,
    CrossDecoder,
    MultiMAE,
    depth_loss,
    dirichlet_masking,
    masking_from_shares,
    rgb_loss,
    semantic_loss,
    standardised_depth,
)

CLASSES = ("background", "sphere", "box")
INFO = pinakes.DataInfo(3, (32, 32), CLASSES)


def maps(images: int = 2, size: tuple[int, int] = (32, 32)) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "image": torch.rand(images, 3, *size),
        "depth": 4 + 20 * torch.rand(images, *size),
        "semantic": torch.randint(-1, len(CLASSES), (images, *size)),
    }


def made(**options: Any) -> MultiMAE:
    return MultiMAE(depth=1, **options).prepare(INFO).eval()


def shown(masking: Masking, modalities: int) -> Tensor:
    """How many tokens of each modality are visible."""
    return torch.stack([(~each).sum(1) for each in masking.hidden.chunk(modalities, dim=1)], dim=1)


def test_shares_have_the_moments_of_a_symmetric_dirichlet_distribution() -> None:
    torch.manual_seed(0)
    for alpha in (0.5, 1.0, 4.0):
        shares = shown(dirichlet_masking(4_000, 3, 64, 32, alpha), 3) / 32
        # of Dir(alpha, alpha, alpha): mean 1/3, variance 2/9 / (3 alpha + 1), covariance -1/9 / (3 alpha + 1)
        expected = torch.full((3, 3), -1 / 9).fill_diagonal_(2 / 9) / (3 * alpha + 1)
        torch.testing.assert_close(shares.mean(0), torch.full((3,), 1 / 3), atol=0.02, rtol=0)
        torch.testing.assert_close(shares.T.cov(), expected, atol=0.008, rtol=0)


@pytest.mark.parametrize("kept", [1, 32, 100, 191])
def test_exactly_as_many_tokens_as_wanted_are_visible(kept: int) -> None:
    torch.manual_seed(0)
    masking = dirichlet_masking(50, 3, 64, kept, alpha=0.3)
    assert (shown(masking, 3).sum(1) == kept).all()
    assert all(len(set(each)) == kept for each in masking.visible.tolist())
    assert not masking.hidden.gather(1, masking.visible).any()
    # what is put behind the visible ones and then restored stands where it was
    order = masking.restore.argsort(1)
    assert torch.equal(order[:, :kept], masking.visible)


def test_every_modality_shows_its_share_up_to_rounding() -> None:
    torch.manual_seed(0)
    shares = torch.distributions.Dirichlet(torch.ones(3)).sample((500,))
    found = shown(masking_from_shares(shares, torch.rand(2, 500, 3, 64), 32), 3)
    wanted = (32 * shares).round()
    assert (found - wanted).abs().max() <= 1
    exact = wanted.sum(1) == 32
    assert exact.any()
    assert torch.equal(found[exact], wanted[exact].long())


def test_a_modality_without_a_share_is_hidden_while_others_have_tokens() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([[0.5, 0.5, 0.0]]).expand(200, -1)
    for kept in (3, 33, 128):
        masking = masking_from_shares(shares, torch.rand(2, 200, 3, 64), kept)
        assert (shown(masking, 3)[:, 2] == 0).all()


def test_one_modality_is_masked_as_in_a_masked_autoencoder() -> None:
    noise = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    found = masking_from_shares(torch.ones(5, 1), noise.expand(2, 5, 64)[:, :, None], 16)
    assert torch.equal(found.hidden, masking_from(noise, 0.75).hidden)


def test_the_middle_four_fifths_of_depth_have_mean_0_and_variance_1() -> None:
    depth = maps()["depth"]
    found = standardised_depth(depth).flatten(1).sort(1).values[:, 102:921]
    torch.testing.assert_close(found.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(1), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        standardised_depth(depth), standardised_depth(100 * depth), atol=1e-4, rtol=1e-4
    )
    flat = torch.full((1, 32, 32), 5.0)
    flat[:, :4, :4] = 4.0
    assert standardised_depth(flat).abs().max() < 21


def test_losses_are_those_of_loops_over_hidden_pixels() -> None:
    given = maps(3)
    hidden = torch.rand(3, 64, generator=torch.Generator().manual_seed(1)) < 0.3
    hidden[1] = False
    painted = {
        "image": torch.randn(3, 64, 48),
        "depth": torch.randn(3, 64, 16),
        "semantic": torch.randn(3, 64, 48),
    }
    depth = standardised_depth(given["depth"])
    sums: dict[str, list[Tensor]] = {"image": [], "norm": [], "depth": [], "semantic": []}
    for image in (0, 2):
        errors: dict[str, list[Tensor]] = {name: [] for name in sums}
        for patch in hidden[image].nonzero().flatten().tolist():
            rows, columns = (slice(4 * each, 4 * each + 4) for each in divmod(patch, 8))
            pixels = (given["image"][image, :, rows, columns].movedim(0, -1).flatten() - CENTRE) / SPREAD
            errors["image"] += [(painted["image"][image, patch] - pixels) ** 2]
            pixels = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
            errors["norm"] += [(painted["image"][image, patch] - pixels) ** 2]
            errors["depth"] += [
                (painted["depth"][image, patch] - depth[image, rows, columns].flatten()).abs()
            ]
            classes = given["semantic"][image, rows, columns].flatten()
            logits = painted["semantic"][image, patch].view(16, 3)
            for pixel in range(16):
                if classes[pixel] >= 0:
                    errors["semantic"] += [-logits[pixel].log_softmax(0)[classes[pixel]][None]]
        for name, found in errors.items():
            sums[name].append(torch.cat(found).mean())
    expected = {name: torch.stack(each).mean() for name, each in sums.items()}
    found = {
        "image": rgb_loss(painted["image"], given["image"], hidden, 4),
        "norm": rgb_loss(painted["image"], given["image"], hidden, 4, norm_pix_loss=True),
        "depth": depth_loss(painted["depth"], given["depth"], hidden, 4),
        "semantic": semantic_loss(painted["semantic"], given["semantic"], hidden, 4),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_tokens_of_classes_are_projected_patches_of_embedded_pixels() -> None:
    torch.manual_seed(0)
    layer, semantic = ClassPatches(3, 4, 32), maps(2, (16, 24))["semantic"]
    table = torch.cat([torch.zeros(1, 64), layer.embed])
    expected = layer.proj(patchify(table[semantic + 1].movedim(-1, 1), 4))
    torch.testing.assert_close(layer(semantic), expected)


def test_the_decoder_asks_visible_tokens_as_attention_written_out_does() -> None:
    torch.manual_seed(0)
    decoder = CrossDecoder((4, 4), 2, painted=1, values=5, inputs=32, width=32, depth=1)
    torch.nn.init.normal_(decoder.mask_token)
    masking, tokens = dirichlet_masking(2, 2, 16, 6), torch.randn(2, 7, 32)
    embedded, places = decoder.embed(tokens), decoder.places[0]
    for image in range(2):
        where = {token: decoder.modality[token // 16, 0] + places[token % 16] for token in range(32)}
        visible = masking.visible[image].tolist()
        held = {token: embedded[image, 1 + row] for row, token in enumerate(visible)}
        context = torch.stack([embedded[image, 0], *(held[token] + where[token] for token in visible)])
        query = torch.stack(
            [held.get(token, decoder.mask_token[0, 0]) + where[token] for token in range(16, 32)]
        )
        weight, bias = decoder.ask.in_proj_weight, decoder.ask.in_proj_bias
        asked = functional.linear(decoder.norm_query(query), weight[:32], bias[:32])
        keys, values = functional.linear(decoder.norm_context(context), weight[32:], bias[32:]).chunk(
            2, dim=1
        )
        answered = decoder.ask.out_proj((asked @ keys.T / 32**0.5).softmax(1) @ values)
        found = answered + decoder.mlp(decoder.norm(answered))
        expected = decoder.paint(decoder.blocks(found[None]))[0]
        torch.testing.assert_close(decoder(tokens, masking)[image], expected, atol=1e-5, rtol=1e-4)


def test_hidden_tokens_never_reach_the_encoder() -> None:
    method, given = made(), maps()
    masking = dirichlet_masking(2, 3, 64, 32)
    image = given["image"].requires_grad_()
    method.seen(given, masking).square().sum().backward()
    assert image.grad is not None
    hidden = masking.hidden.chunk(3, dim=1)
    assert not patchify(image.grad, 4)[hidden[0]].any()
    assert patchify(image.grad, 4)[~hidden[0]].any(1).all()
    changed = given["semantic"].clone()
    blocks = hidden[2].view(2, 8, 8).repeat_interleave(4, 1).repeat_interleave(4, 2)
    changed[blocks] = 0
    torch.testing.assert_close(
        method.seen(given, masking), method.seen(given | {"semantic": changed}, masking)
    )


def test_training_looks_at_a_sixth_of_all_tokens() -> None:
    method, seen = made(), []
    method.encoder.network.blocks[0].register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    given = maps()
    method.loss(**given)
    method.encode(given["image"])
    method.encode(given["image"], depth=given["depth"])
    assert seen == [1 + 32, 1 + 64, 1 + 128]


def test_colour_alone_is_encoded_and_judged_as_in_a_masked_autoencoder() -> None:
    method = made(modalities=("image",), extra_norm_pix_loss=False, mask_ratio=0.75)
    assert dict(method.needs) == {}
    image, masking = maps()["image"], dirichlet_masking(2, 1, 64, 16)
    seen = method.seen({"image": image}, masking)
    torch.testing.assert_close(seen, method.norm(method.encoder(image, masking.visible)))
    painted = method.decoders["image"](seen, masking)
    torch.testing.assert_close(
        method.loss(image, masking=masking), reconstruction_loss(painted, image, masking.hidden, 4)
    )
    torch.testing.assert_close(
        method.encode(image)["embedding"], method.norm(method.encoder(image))[:, 1:].mean(1)
    )


def test_all_modalities_are_cropped_and_mirrored_alike() -> None:
    method = made()
    # colour, depth and class all tell the same thing: in which half a pixel is
    right = (torch.arange(32) >= 16).expand(64, 32, 32)
    batch = {
        "image": right[:, None].float().repeat(1, 3, 1, 1),
        "depth": right.float(),
        "semantic": right.long(),
    }
    torch.manual_seed(0)
    found = method._parted(method.augmented(method._stacked(batch, method.modalities)), method.modalities)
    assert (found["image"][:, 0] - right.float()).abs().max() > 0.5
    torch.testing.assert_close(found["image"][:, 0], found["depth"])
    sure = (found["depth"] - 0.5).abs() > 1e-3
    assert torch.equal(found["semantic"][sure], (found["depth"] > 0.5).long()[sure])


def test_modalities_are_completed_from_some_tokens_of_others() -> None:
    method, given = made(), maps()
    found = method.complete(given, ("image", "depth"), 20)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "image": (2, 3, 32, 32),
        "depth": (2, 32, 32),
        "semantic": (2, 3, 32, 32),
    }
    again = method.complete({name: given[name] for name in ("image", "depth")}, ("depth", "image"), 20)
    assert torch.equal(found["semantic"], again["semantic"])
    other = method.complete(given | {"semantic": torch.zeros_like(given["semantic"])}, ("image", "depth"), 20)
    assert torch.equal(found["semantic"], other["semantic"])
    with pytest.raises(pinakes.UserError, match="tokens: depth have 1 to 64, got 65"):
        method.complete(given, ("depth",), 65)
    with pytest.raises(pinakes.UserError, match="depth: the method looks at it"):
        method.complete({"image": given["image"]}, ("depth",))


def test_pictures_show_what_is_hidden_of_the_image_in_grey() -> None:
    method, image = made(), maps()["image"]
    painted = method.painted(image)
    view, true, found = (patchify(each, 4) for each in (painted["shown"], image, painted["reconstruction"]))
    hidden = (view == GREY).all(2)
    assert hidden.sum(1).tolist() == [32, 32]
    torch.testing.assert_close(found[~hidden], true[~hidden])
    assert torch.equal(painted["reconstruction"], method.painted(image)["reconstruction"])


def test_oblong_images_of_one_channel_and_depth_at_prediction_are_taken() -> None:
    info = pinakes.DataInfo(1, (16, 48), CLASSES)
    method = MultiMAE(depth=1, inputs=["image", "depth"]).prepare(info)
    batch = {"image": torch.rand(2, 1, 32, 96), "depth": torch.rand(2, 32, 96)}
    assert method.predict(batch)["features"].shape == (2, 96, 4, 12)
    with pytest.raises(ValueError, match="depth"):
        method.predict({"image": batch["image"]})


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"modalities": ("image", "normals")},
        {"modalities": ("depth",)},
        {"modalities": ()},
        {"inputs": "image"},
        {"modalities": ("image", "depth"), "inputs": ("image", "semantic")},
        {"mask_ratio": 1.0},
        {"decoder_embed_dim": 50},
        {"decoder_depth": 0},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(pinakes.UserError, match=list(options)[-1]):
        MultiMAE(**options)


def test_data_without_what_it_learns_from_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="the depth of every pixel"):
        MultiMAE(depth=1).fit("digits?n=40&size=32", steps=1)
    with pytest.raises(pinakes.UserError, match="modalities: 'semantic' needs data"):
        MultiMAE().prepare(pinakes.DataInfo(3, (32, 32)))
    MultiMAE(depth=1, modalities=["image"]).fit("digits?n=40&size=32", steps=1, batch_size=8)
