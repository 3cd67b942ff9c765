"""The diffusion transformer against that of diffusers, where it is installed."""

import pytest
import torch
from torch import Tensor, nn

from pinakes.papers.diffusion.dit import DiTNetwork

diffusers = pytest.importorskip("diffusers")

WIDTH, HEADS, DEPTH, PATCH, CHANNELS, SIDE = 32, 4, 3, 2, 4, 12


class Told(nn.Module):
    """Stands for what t and the class are embedded as, whose frequencies differ between the two."""

    def __init__(self, told: Tensor) -> None:
        super().__init__()
        self.told = told

    def forward(self, *inputs: object, **options: object) -> Tensor:
        return self.told


def copied(theirs: nn.Module, ours: DiTNetwork) -> None:
    """Gives our network the weights of theirs."""
    pairs = [(ours.told[1], theirs.proj_out_1), (ours.leave, theirs.proj_out_2)]
    for mine, other in zip(ours.blocks, theirs.transformer_blocks, strict=True):
        pairs += [
            (mine.told[1], other.norm1.linear),
            (mine.attention.proj, other.attn1.to_out[0]),
            (mine.mlp.fc1, other.ff.net[0].proj),
            (mine.mlp.fc2, other.ff.net[2]),
        ]
        parts = [other.attn1.to_q, other.attn1.to_k, other.attn1.to_v]
        mine.attention.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
        mine.attention.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    # both hold sines and cosines of column and row, in another order
    parts = ours.places.chunk(4, dim=2)
    torch.testing.assert_close(torch.cat([parts[n] for n in (1, 3, 0, 2)], dim=2), theirs.pos_embed.pos_embed)
    ours.places.copy_(theirs.pos_embed.pos_embed)
    kernel = theirs.pos_embed.proj
    ours.enter.weight.copy_(kernel.weight.permute(0, 2, 3, 1).flatten(1))
    ours.enter.bias.copy_(kernel.bias)


@torch.no_grad()
def test_it_is_the_transformer_of_diffusers() -> None:
    torch.manual_seed(0)
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=HEADS,
        attention_head_dim=WIDTH // HEADS,
        in_channels=CHANNELS,
        num_layers=DEPTH,
        sample_size=SIDE,
        patch_size=PATCH,
        num_embeds_ada_norm=10,
        norm_eps=1e-6,
    ).eval()
    for each in theirs.parameters():
        each.copy_(0.2 * torch.randn_like(each))
    told = torch.randn(2, WIDTH)
    for block in theirs.transformer_blocks:
        block.norm1.emb = Told(told)
    ours = DiTNetwork((SIDE, SIDE), CHANNELS, PATCH, WIDTH, DEPTH, HEADS).eval()
    copied(theirs, ours)
    image = torch.randn(2, CHANNELS, SIDE, SIDE)
    expected = theirs(image, torch.tensor([1, 2]), torch.tensor([3, 4])).sample
    torch.testing.assert_close(ours.answer(image, [told]), expected, atol=1e-5, rtol=1e-5)
