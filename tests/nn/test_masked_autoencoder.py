import math

import pytest
import torch

from pinakes.nn.masked_autoencoder import (
    CENTRE,
    SPREAD,
    MaskedDecoder,
    MaskedEncoder,
    filled_in,
    masking_from,
    normalised,
    patchify,
    random_masking,
    reconstruction_loss,
    unpatchify,
    visible_only,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_patches_are_cut_row_by_row_with_the_channels_last() -> None:
    image = noise(2, 3, 8, 12)
    found = patchify(image, 4)
    assert found.shape == (2, 6, 48)
    for row in range(2):
        for column in range(3):
            block = image[1, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.equal(found[1, 3 * row + column], block.permute(1, 2, 0).flatten())


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_put_together_again(channels: int) -> None:
    image = noise(2, channels, 8, 12)
    assert torch.equal(unpatchify(patchify(image, 4), 4, (8, 12)), image)


def test_sides_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="image"):
        patchify(noise(1, 3, 8, 10), 4)
    with pytest.raises(ValueError, match="size"):
        MaskedEncoder((30, 32), patch=4)


def test_the_patches_with_the_lowest_noise_are_visible() -> None:
    drawn = noise(5, 16)
    masking = masking_from(drawn, 0.75)
    for sample in range(5):
        lowest = sorted(range(16), key=lambda place: drawn[sample, place].item())
        assert masking.visible[sample].tolist() == lowest[:4]
        assert set(masking.hidden[sample].nonzero()[:, 0].tolist()) == set(lowest[4:])
        for place in range(16):
            assert lowest[masking.restore[sample, place]] == place


@pytest.mark.parametrize(
    ("patches", "ratio", "kept"), [(64, 0.75, 16), (196, 0.95, 9), (10, 0.9, 1), (4, 0.99, 1), (4, 0.01, 3)]
)
def test_the_share_that_is_hidden(patches: int, ratio: float, kept: int) -> None:
    masking = random_masking(3, patches, ratio)
    assert masking.visible.shape == (3, kept)
    assert (masking.hidden.sum(1) == patches - kept).all()


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5])
def test_a_ratio_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        random_masking(2, 16, ratio)


def test_every_patch_is_hidden_about_as_often() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        share = random_masking(4000, 16, 0.75).hidden.double().mean(0)
    assert (share - 0.75).abs().max() < 0.03


def test_visible_tokens_return_to_their_places_among_mask_tokens() -> None:
    tokens, mask = noise(2, 16, 8), torch.full((1, 1, 8), -1.0, dtype=torch.float64)
    masking = masking_from(noise(2, 16), 0.75)
    found = filled_in(visible_only(tokens, masking.visible), mask, masking.restore)
    assert torch.equal(found, torch.where(masking.hidden[:, :, None], mask, tokens))


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_the_formula_written_out(norm_pix_loss: bool) -> None:
    image, predicted = noise(3, 3, 8, 8), noise(3, 4, 48)
    hidden = masking_from(noise(3, 4), 0.5).hidden
    total, count = 0.0, 0
    for sample in range(3):
        for place in range(4):
            if not hidden[sample, place]:
                continue
            row, column = divmod(place, 2)
            block = image[sample, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            values = [(value - CENTRE) / SPREAD for value in block.permute(1, 2, 0).flatten().tolist()]
            if norm_pix_loss:
                mean = sum(values) / 48
                variance = sum((value - mean) ** 2 for value in values) / 47
                values = [(value - mean) / math.sqrt(variance + 1e-6) for value in values]
            pairs = zip(values, predicted[sample, place].tolist(), strict=True)
            total += sum((value - said) ** 2 for value, said in pairs) / 48
            count += 1
    found = reconstruction_loss(predicted, image, hidden, 4, norm_pix_loss)
    assert found.item() == pytest.approx(total / count, abs=1e-12)


def test_visible_patches_do_not_count() -> None:
    image, predicted = noise(2, 3, 8, 8), noise(2, 4, 48)
    hidden = masking_from(noise(2, 4), 0.5).hidden
    other = torch.where(hidden[:, :, None], predicted, predicted + 7)
    assert reconstruction_loss(predicted, image, hidden, 4) == reconstruction_loss(other, image, hidden, 4)


@pytest.mark.parametrize(("channels", "size"), [(1, (16, 24)), (3, (32, 32))])
def test_with_all_patches_visible_the_encoder_is_timms_transformer(
    channels: int, size: tuple[int, int]
) -> None:
    encoder = MaskedEncoder(size, 4, channels, width=32, depth=2).double()
    image = noise(2, channels, *size)
    expected = encoder.network.forward_features(normalised(image))
    torch.testing.assert_close(encoder(image), expected, rtol=0, atol=1e-12)
    everything = torch.arange(encoder.patches).expand(2, -1)
    torch.testing.assert_close(encoder(image, everything), expected, rtol=0, atol=1e-12)


def test_hidden_patches_leave_no_trace_in_the_tokens() -> None:
    encoder = MaskedEncoder((16, 16), 4, width=32, depth=2).double()
    image, masking = noise(2, 3, 16, 16), masking_from(noise(2, 16), 0.75)
    other = unpatchify(
        torch.where(masking.hidden[:, :, None], torch.ones(1, dtype=torch.float64), patchify(image, 4)),
        4,
        (16, 16),
    )
    found = encoder(image, masking.visible)
    assert found.shape == (2, 5, 32)
    assert torch.equal(found, encoder(other, masking.visible))


def test_blocks_behind_the_last_that_is_wanted_are_not_run() -> None:
    encoder = MaskedEncoder((16, 16), 4, width=32, depth=3)
    run = []
    for count, block in enumerate(encoder.network.blocks, start=1):
        block.register_forward_hook(lambda *_, count=count: run.append(count))
    image = torch.rand(2, 3, 16, 16)
    two = encoder.after(image, [2])
    assert run == [1, 2]
    torch.testing.assert_close(encoder.after(image, [2, 3])[0], two[0])
    assert torch.equal(encoder.after(image, [1, 3])[1], encoder(image))


def test_levels_are_maps_after_each_third_of_the_blocks_of_images_of_any_size() -> None:
    encoder = MaskedEncoder((16, 24), 4, width=32, depth=4)
    image = torch.rand(2, 3, 16, 24)
    found = encoder.levels(image)
    assert [tuple(level.shape) for level in found] == [(2, 32, 4, 6)] * 3
    for level, tokens in zip(found, encoder.after(image, [2, 3, 4]), strict=True):
        assert torch.equal(level, encoder.maps(tokens))
    assert encoder.levels(torch.rand(1, 3, 33, 20))[0].shape == (1, 32, 4, 6)
    assert (encoder.widths, encoder.strides) == ([32] * 3, [4] * 3)


def test_maps_lie_as_the_patches_do() -> None:
    encoder = MaskedEncoder((16, 24), 4, width=32, depth=1)
    tokens = torch.rand(2, 25, 32)
    found = encoder.maps(tokens)
    assert found.shape == (2, 32, 4, 6)
    assert torch.equal(found[1, :, 2, 3], tokens[1, 1 + 2 * 6 + 3])


def test_the_decoder_does_not_depend_on_the_order_of_the_visible_patches() -> None:
    torch.manual_seed(0)
    encoder = MaskedEncoder((16, 16), 4, width=32, depth=1).double()
    decoder = MaskedDecoder((4, 4), 4, inputs=32, width=32).double()
    image, masking = noise(2, 3, 16, 16), masking_from(noise(2, 16), 0.75)
    painted = decoder(encoder(image, masking.visible), masking.restore)
    assert painted.shape == (2, 16, 48)
    shuffled = masking.visible.flip(1)
    restore = torch.where(masking.hidden, masking.restore, 3 - masking.restore)
    again = decoder(encoder(image, shuffled), restore)
    torch.testing.assert_close(again, painted, rtol=0, atol=1e-12)


def test_a_small_autoencoder_learns_to_paint() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = MaskedEncoder((16, 16), 4, 1, width=32, depth=1)
        decoder = MaskedDecoder((4, 4), 4, 1, inputs=32, width=32)
        optimiser = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=3e-3)
        ramp = torch.linspace(0, 1, 16).expand(16, 1, 16, 16) * torch.rand(16, 1, 1, 1)
        losses = []
        for _ in range(40):
            masking = random_masking(16, 16, 0.5)
            painted = decoder(encoder(ramp, masking.visible), masking.restore)
            loss = reconstruction_loss(painted, ramp, masking.hidden, 4)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
