"""The masked autoencoder against transformers' ViTMAEForPreTraining, with the same weights, noise and patches."""

from typing import Any

import pytest
import torch

from pinakes.nn.masked_autoencoder import (
    MaskedDecoder,
    MaskedEncoder,
    masking_from,
    normalised,
    reconstruction_loss,
)

WIDTH, DEPTH, PATCH, SIZE = 64, 3, 4, 32


def copied(ours: MaskedEncoder, decoder: MaskedDecoder, theirs: Any) -> None:
    """Puts our weights, positions and small numbers of normalisations into theirs."""

    def block(mine: Any, other: Any) -> None:
        weight, bias = mine.attn.qkv.weight.chunk(3), mine.attn.qkv.bias.chunk(3)
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            other.attention.get_submodule(name).weight.copy_(weight[place])
            other.attention.get_submodule(name).bias.copy_(bias[place])
        for name, layer in (
            ("attn.proj", other.attention.o_proj),
            ("mlp.fc1", other.mlp.fc1),
            ("mlp.fc2", other.mlp.fc2),
            ("norm1", other.layernorm_before),
            ("norm2", other.layernorm_after),
        ):
            layer.load_state_dict(mine.get_submodule(name).state_dict())
            if "norm" in name:
                layer.eps = mine.get_submodule(name).eps

    with torch.no_grad():
        network, embedded = ours.network, theirs.vit.embeddings
        embedded.patch_embeddings.projection.load_state_dict(network.patch_embed.proj.state_dict())
        embedded.cls_token.copy_(network.cls_token)
        embedded.position_embeddings.copy_(network.pos_embed)
        for mine, other in zip(network.blocks, theirs.vit.layers, strict=True):
            block(mine, other)
        theirs.vit.layernorm.load_state_dict(decoder.norm.state_dict())
        theirs.vit.layernorm.eps = decoder.norm.eps
        painter = theirs.decoder
        painter.decoder_embed.load_state_dict(decoder.embed.state_dict())
        painter.mask_token.copy_(decoder.mask_token)
        painter.decoder_pos_embed.copy_(decoder.places)
        for mine, other in zip(decoder.blocks[:-1], painter.decoder_layers, strict=True):
            block(mine, other)
        painter.decoder_norm.load_state_dict(decoder.blocks[-1].state_dict())
        painter.decoder_norm.eps = decoder.blocks[-1].eps
        painter.decoder_pred.load_state_dict(decoder.paint.state_dict())


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_the_loss_is_that_of_transformers(norm_pix_loss: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    encoder = MaskedEncoder((SIZE, SIZE), PATCH, 3, WIDTH, DEPTH)
    decoder = MaskedDecoder(encoder.grid, PATCH, 3, WIDTH, 32, 2)
    config = transformers.ViTMAEConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=WIDTH // 32,
        intermediate_size=4 * WIDTH,
        image_size=SIZE,
        patch_size=PATCH,
        num_channels=3,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=1,
        decoder_intermediate_size=4 * 32,
        mask_ratio=0.75,
        norm_pix_loss=norm_pix_loss,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    copied(encoder, decoder, theirs)
    image, noise = torch.rand(5, 3, SIZE, SIZE), torch.rand(5, encoder.patches)
    masking = masking_from(noise, 0.75)
    with torch.no_grad():
        painted = decoder(encoder(image, masking.visible), masking.restore)
        loss = reconstruction_loss(painted, image, masking.hidden, PATCH, norm_pix_loss)
        expected = theirs(pixel_values=normalised(image), noise=noise)
    torch.testing.assert_close(painted, expected.logits, atol=1e-5, rtol=1e-4)
    assert loss.item() == pytest.approx(expected.loss.item(), abs=1e-5)
