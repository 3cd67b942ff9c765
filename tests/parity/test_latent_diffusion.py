"""Attention of maps to tokens against that of diffusers, where it is installed."""

import pytest
import torch

from pinakes.papers.diffusion.latent_diffusion import SpatialTransformer

diffusers = pytest.importorskip("diffusers")

WIDTH, HEADS, TOLD = 16, 2, 12


@torch.no_grad()
def test_it_is_the_transformer_of_diffusers() -> None:
    torch.manual_seed(0)
    theirs = diffusers.Transformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=WIDTH,
        norm_num_groups=8,
        cross_attention_dim=TOLD,
    ).eval()
    for each in theirs.parameters():
        each.copy_(0.3 * torch.randn_like(each))
    ours, block = SpatialTransformer(WIDTH, TOLD, HEADS), theirs.transformer_blocks[0]
    pairs = [
        (ours.norm, theirs.norm),
        (ours.enter, theirs.proj_in),
        (ours.leave, theirs.proj_out),
        (ours.widen, block.ff.net[0].proj),
        (ours.narrow, block.ff.net[2]),
        *zip(ours.norms, (block.norm1, block.norm2, block.norm3), strict=True),
    ]
    for mine, other in ((ours.own, block.attn1), (ours.other, block.attn2)):
        pairs += [(mine.query, other.to_q), (mine.key, other.to_k), (mine.value, other.to_v)]
        pairs.append((mine.out, other.to_out[0]))
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    maps, tokens = torch.randn(2, WIDTH, 5, 3), torch.randn(2, 7, TOLD)
    expected = theirs(maps, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(ours(maps, tokens), expected, atol=1e-5, rtol=1e-5)
