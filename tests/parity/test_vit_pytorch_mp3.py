"""Position prediction against vit-pytorch's MP3, with the same weights, images and context.

There the patches of all blocks look at the context as it was before the first block, here as it is before each; so one
block is compared.
"""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from pinakes.papers.self_supervised.mp3 import context_block, position_loss

WIDTH, PATCHES = 64, 64


def test_the_loss_is_that_of_vit_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("vit_pytorch.mp3")
    torch.manual_seed(0)
    network = theirs.ViT(
        num_classes=2,
        image_size=32,
        patch_size=4,
        dim=WIDTH,
        depth=1,
        heads=2,
        mlp_dim=4 * WIDTH,
        dim_head=32,
    )
    trainer = theirs.MP3(network, masking_ratio=0.75)
    block = Block(WIDTH, 2, qkv_bias=False, norm_layer=nn.LayerNorm)
    attention, forward = network.transformer.layers[0]
    with torch.no_grad():
        block.norm1.load_state_dict(attention.norm.state_dict())
        block.attn.qkv.weight.copy_(torch.cat([attention.to_q.weight, attention.to_kv.weight]))
        block.attn.proj.load_state_dict(attention.to_out[0].state_dict())
        for place, layer in ((0, block.norm2), (1, block.mlp.fc1), (4, block.mlp.fc2)):
            layer.load_state_dict(forward.net[place].state_dict())
    image, noise = torch.rand(3, 3, 32, 32), torch.rand(3, PATCHES)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "rand", lambda *_, **__: noise)
        expected = trainer(image)
    context = noise.argsort(1)[:, 48:]
    tokens = network.to_patch_embedding(image).flatten(1, 2)
    found = position_loss(trainer.mlp_head(context_block(block, tokens, context)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
