import pytest
import torch
from torch import nn

import pinakes
from pinakes.nn.masked_autoencoder import Masking, masking_from, standardised
from pinakes.papers.self_supervised.cae import CAE, CrossAttentionBlock
from pinakes.papers.self_supervised.transformer import hidden_patches

INFO = pinakes.DataInfo(3, (32, 32))


def small(**options: object) -> CAE:
    return CAE(depth=1, regressor_depth=1, decoder_depth=1, **options).prepare(INFO).eval()  # type: ignore[arg-type]


def some_masking() -> Masking:
    return masking_from(torch.rand(2, 64, generator=torch.Generator().manual_seed(0)), 0.5)


def test_hidden_patches_are_those_that_are_not_visible() -> None:
    masking = some_masking()
    hidden = hidden_patches(masking)
    assert hidden.shape == (2, 32)
    for image in range(2):
        both = torch.cat([hidden[image], masking.visible[image]]).sort().values
        assert torch.equal(both, torch.arange(64))
        assert masking.hidden[image, hidden[image]].all()


def test_the_block_is_attention_of_queries_to_a_context() -> None:
    torch.manual_seed(0)
    block = CrossAttentionBlock(64).double()
    query, context, place = (torch.randn(2, n, 64, dtype=torch.float64) for n in (3, 5, 5))
    query_place = torch.randn(2, 3, 64, dtype=torch.float64)
    attention = nn.MultiheadAttention(64, 2, batch_first=True).double()
    with torch.no_grad():
        weights = [block.query.weight, block.key.weight, block.value.weight]
        attention.in_proj_weight.copy_(torch.cat(weights))
        attention.in_proj_bias.copy_(torch.cat([block.query.bias, torch.zeros(64), block.value.bias]))
        attention.out_proj.load_state_dict(block.project.state_dict())
        answered, _ = attention(
            block.norm_query(query + query_place), block.norm_key(context + place), block.norm_value(context)
        )
        found = block.norm(query + 0.1 * answered)
        expected = found + 0.1 * block.mlp(found)
        torch.testing.assert_close(block(query, context, query_place, place), expected)


def test_what_is_hidden_is_painted_without_a_look_at_it() -> None:
    method, masking = small(), some_masking()
    hidden = hidden_patches(masking)
    image, other = torch.rand(2, 2, 3, 32, 32)
    covered = masking.hidden.view(2, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        first = method.foretell(image, masking, hidden)
        second = method.foretell(torch.where(covered, other, image), masking, hidden)
        third = method.foretell(torch.where(covered, image, other), masking, hidden)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first[1], third[1])


def test_the_order_of_hidden_patches_does_not_matter() -> None:
    method, masking = small(), some_masking()
    hidden = hidden_patches(masking)
    image = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        foretold, painted = method.foretell(image, masking, hidden)
        turned, turned_painted = method.foretell(image, masking, hidden.flip(1))
    torch.testing.assert_close(foretold, turned.flip(1))
    torch.testing.assert_close(painted, turned_painted.flip(1), atol=1e-5, rtol=1e-4)


def test_the_loss_is_painting_and_alignment_written_out() -> None:
    method = small(align=3.0)
    image = torch.rand(2, 3, 32, 32)
    torch.manual_seed(7)
    loss = method.loss(image)
    torch.manual_seed(7)
    masking = masking_from(torch.rand(2, 64), 0.5)
    hidden = hidden_patches(masking)
    foretold, painted = method.foretell(image, masking, hidden)
    painting = alignment = torch.tensor(0.0)
    for i in range(2):
        alone = method.normal(method.encoder(image[i : i + 1], hidden[i : i + 1]))[0, 1:]
        for j, number in enumerate(hidden[i].tolist()):
            row, column = 4 * (number // 8), 4 * (number % 8)
            pixels = image[i, :, row : row + 4, column : column + 4].movedim(0, -1).flatten()
            target = (pixels - pixels.mean()) / pixels.std()
            painting = painting + (painted[i, j] - target).square().mean() / 64
            alignment = alignment + (foretold[i, j] - alone[j]).square().mean() / 64
    torch.testing.assert_close(loss, painting + 3 * alignment, atol=1e-4, rtol=1e-4)


def test_no_gradient_flows_through_the_encoders_own_answers() -> None:
    method = small(align=1.0)
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    with torch.no_grad():
        assert not method.normal(method.encoder(image)).requires_grad
    method.loss(image).backward()
    assert method.encoder.network.patch_embed.proj.weight.grad is not None


def test_patches_are_standardised() -> None:
    found = standardised(5 + 3 * torch.randn(2, 4, 48))
    torch.testing.assert_close(found.mean(2), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(2), torch.ones(2, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"align": -1.0}, {"regressor_depth": 0}, {"mask_ratio": 0.0}])
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        CAE(**options)  # type: ignore[arg-type]


def test_options_of_all_bases_are_options_of_the_method() -> None:
    assert set(CAE.option_defaults()) >= {"align", "mask_ratio", "embed_dim", "learning_rate", "augmentation"}
    assert CAE.option_defaults()["mask_ratio"] == 0.5
    doc = CAE.__doc__ or ""
    assert all(f"{name}:" in doc for name in CAE.option_defaults())
