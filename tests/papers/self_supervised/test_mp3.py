import math

import pytest
import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import nn

import pinakes
from pinakes.nn.masked_autoencoder import patchify, unpatchify
from pinakes.papers.self_supervised.mp3 import (
    MP3,
    ContextEncoder,
    context_attention,
    context_block,
    position_loss,
    put_back,
)

INFO = pinakes.DataInfo(3, (16, 24))


def jumbled(image: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return unpatchify(patchify(image, 4)[:, order], 4, (16, 24))


def test_attention_is_timms_if_all_answer_in_any_order() -> None:
    attention, tokens = Attention(64, num_heads=2, qkv_bias=True), torch.randn(3, 7, 64)
    found = context_attention(attention, tokens, tokens[:, torch.randperm(7)])
    torch.testing.assert_close(found, attention(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_attention_is_that_of_a_naive_loop(bias: bool) -> None:
    attention, tokens = Attention(32, num_heads=2, qkv_bias=bias), torch.randn(2, 5, 32)
    context = torch.tensor([[4, 1], [0, 3]])
    found = context_attention(attention, tokens, torch.stack([tokens[i, context[i]] for i in range(2)]))
    for image in range(2):
        query, key, value = attention.qkv(tokens[image]).chunk(3, dim=1)
        for place in range(5):
            heads = []
            for part in (slice(16), slice(16, 32)):
                score = torch.stack([query[place, part] @ key[j, part] / 4 for j in context[image]])
                heads.append(score.softmax(0) @ value[context[image], part])
            torch.testing.assert_close(
                found[image, place], attention.proj(torch.cat(heads)), atol=1e-5, rtol=1e-5
            )


def test_blocks_are_timms_with_all_but_the_context_masked() -> None:
    blocks = [Block(32, 2, qkv_bias=True, init_values=0.1) for _ in range(3)]
    ours = theirs = torch.randn(2, 6, 32)
    context = torch.tensor([[5, 0], [2, 3]])
    mask = torch.zeros(2, 6).scatter(1, context, 1).bool()[:, None, None].expand(-1, 1, 6, -1)
    for block in blocks:
        ours, theirs = context_block(block, ours, context), block(theirs, attn_mask=mask)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_mean_of_minus_log_p() -> None:
    logits = torch.randn(3, 6, 6)
    expected = -sum(logits[b, i].softmax(0)[i].log() for b in range(3) for i in range(6)) / 18
    torch.testing.assert_close(position_loss(logits), expected)
    torch.testing.assert_close(position_loss(torch.zeros(2, 24, 24)), torch.tensor(math.log(24)))
    assert position_loss(99 * torch.eye(6).expand(2, -1, -1)) < 1e-6


def test_where_patches_lie_is_not_told() -> None:
    method = MP3(depth=2).prepare(INFO).eval()
    image, order = torch.rand(2, 3, 16, 24), torch.randperm(24)
    context = torch.tensor([[3, 8, 20], [1, 2, 23]])
    told = method.places(jumbled(image, order), order.argsort()[context])
    torch.testing.assert_close(told, method.places(image, context)[:, order], atol=1e-5, rtol=1e-5)
    whole = method.encode(image)["embedding"]
    torch.testing.assert_close(whole, method.encode(jumbled(image, order))["embedding"], atol=1e-5, rtol=1e-5)


def test_positions_are_told_for_fine_tuning_alone() -> None:
    method = MP3(depth=2, positions=True).prepare(INFO).eval()
    image, order = torch.rand(2, 3, 16, 24), torch.randperm(24)
    found, other = (method.encode(each)["embedding"] for each in (image, jumbled(image, order)))
    assert (found - other).abs().max() > 1e-3
    everything = torch.arange(24).expand(2, -1)
    torch.testing.assert_close(
        method.places(jumbled(image, order), everything),
        method.places(image, everything)[:, order],
        atol=1e-5,
        rtol=1e-5,
    )


def test_a_patch_outside_of_the_context_changes_nothing_but_itself() -> None:
    method = MP3(depth=3).prepare(INFO).eval()
    image = torch.rand(1, 3, 16, 24)
    other = image.clone()
    other[..., :4, :4] = torch.rand(4, 4)
    context = torch.tensor([[5, 9, 17]])
    differs = (method.places(image, context) - method.places(other, context)).abs().amax(2)[0]
    assert differs[0] > 1e-3
    assert differs[1:].max() < 1e-5


def test_training_computes_keys_and_values_of_a_quarter_of_the_patches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def watched(attention: nn.Module, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        seen.append((tokens.shape[1], context.shape[1]))
        return tokens

    monkeypatch.setattr("pinakes.papers.self_supervised.mp3.context_attention", watched)
    MP3(depth=2).prepare(INFO).loss(torch.rand(2, 3, 16, 24))
    assert seen == [(24, 6)] * 2


def test_patches_with_known_places_are_put_back() -> None:
    patches, order = torch.rand(2, 24, 5), torch.randperm(24)
    thought = 1e4 * torch.eye(24)[order].expand(2, -1, -1)
    torch.testing.assert_close(put_back(patches[:, order], thought), patches)
    mean = patches.mean(1, keepdim=True).expand_as(patches)
    torch.testing.assert_close(put_back(patches, torch.zeros(2, 24, 24)), mean)


def test_pictures_show_the_same_jumble_every_time() -> None:
    method = MP3(depth=1).prepare(INFO).eval()
    image = torch.rand(2, 3, 16, 24)
    painted = method.painted(image)
    shown, true = (patchify(each, 4).sum(2) for each in (painted["shown"], image))
    torch.testing.assert_close(shown.sort(1).values, true.sort(1).values)
    assert not torch.equal(shown, true)
    assert torch.equal(painted["reconstruction"], method.painted(image)["reconstruction"])


def test_the_encoder_is_a_backbone_with_feature_maps() -> None:
    encoder = ContextEncoder((16, 24), patch=4, width=32, depth=3)
    assert [tuple(each.shape) for each in encoder.levels(torch.rand(2, 3, 16, 24))] == [(2, 32, 4, 6)] * 3


def test_options_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(pinakes.UserError, match="mask_ratio"):
        MP3(mask_ratio=1.0)
