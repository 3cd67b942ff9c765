import pytest
import torch
from torch.nn import functional

import pinakes
from pinakes.papers.diffusion.dit import AdaLNBlock, AdaLNZeroBlock, DiT, DiTNetwork, PlainBlock, modulate

SMALL = {"hidden_size": 16, "depth": 2, "num_heads": 2, "sampling_steps": 3}
INFO = pinakes.DataInfo(1, (8, 8), ("zero", "one"))
KINDS = pytest.mark.parametrize("conditioning", ["adaln-zero", "adaln", "in-context"])


def small(**options: object) -> DiT:
    return DiT(**SMALL | options).prepare(INFO).eval()  # type: ignore[arg-type]


def network(**options: object) -> DiTNetwork:
    torch.manual_seed(0)
    form = {"patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2, "classes": 2}
    made = DiTNetwork((8, 6), 3, **form | options)  # type: ignore[arg-type]
    for each in made.parameters():
        torch.nn.init.normal_(each, std=0.3)
    return made


def test_modulation_is_that_of_each_sample() -> None:
    tokens, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 4), torch.randn(2, 4)
    found = modulate(tokens, shift, scale)
    torch.testing.assert_close(found[1, 2], tokens[1, 2] * (1 + scale[1]) + shift[1])


def test_a_block_that_starts_at_zero_leaves_its_input_as_it_is_and_the_others_do_not() -> None:
    tokens, told = torch.randn(2, 5, 16), torch.randn(2, 16)
    assert torch.equal(AdaLNZeroBlock(16, 2)(tokens, told), tokens)
    assert not torch.allclose(AdaLNBlock(16, 2)(tokens, told), tokens, atol=0.1)
    assert not torch.allclose(PlainBlock(16, 2)(tokens), tokens, atol=0.1)


def test_a_block_follows_the_equations() -> None:
    torch.manual_seed(0)
    block, tokens, told = AdaLNZeroBlock(8, 2), torch.randn(1, 3, 8), torch.randn(1, 8)
    for each in block.parameters():
        torch.nn.init.normal_(each, std=0.5)
    layer = block.told[1]
    said = layer.weight @ (told[0] * torch.sigmoid(told[0])) + layer.bias
    beta_1, gamma_1, alpha_1, beta_2, gamma_2, alpha_2 = said.split(8)

    def normed(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    x = tokens[0]
    query, key, value = functional.linear(
        (1 + gamma_1) * normed(x) + beta_1, block.attention.qkv.weight, block.attention.qkv.bias
    ).chunk(3, dim=1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        share = (query[:, part] @ key[:, part].T / 4**0.5).softmax(1)
        heads.append(share @ value[:, part])
    attended = functional.linear(
        torch.cat(heads, dim=1), block.attention.proj.weight, block.attention.proj.bias
    )
    x = x + alpha_1 * attended
    x = x + alpha_2 * block.mlp((1 + gamma_2) * normed(x) + beta_2)
    torch.testing.assert_close(block(tokens, told)[0], x, atol=1e-5, rtol=1e-5)


@KINDS
def test_the_network_at_first_foretells_nothing(conditioning: str) -> None:
    made = DiTNetwork((8, 6), 3, 2, 16, 2, 2, conditioning=conditioning)  # type: ignore[arg-type]
    assert not made(torch.randn(2, 3, 8, 6), torch.tensor([3, 500])).any()


@KINDS
def test_it_hears_how_strong_the_noise_is_and_which_class(conditioning: str) -> None:
    made, image = network(conditioning=conditioning), torch.randn(1, 3, 8, 6)
    t, label = torch.tensor([3]), torch.tensor([1])
    said = made(image, t, label)
    assert said.shape == image.shape
    assert not torch.allclose(made(image, t + 400, label), said, atol=1e-3)
    assert not torch.allclose(made(image, t, label - 1), said, atol=1e-3)
    torch.testing.assert_close(made(image, t), made(image, t, torch.tensor([-1])))


def test_without_positions_it_does_not_know_which_patch_is_where() -> None:
    made, image, t = network(), torch.randn(1, 3, 8, 6), torch.tensor([3])
    # turned about by whole patches of 2
    turned = image.roll((4, 2), dims=(2, 3))
    assert not torch.allclose(made(turned, t), made(image, t).roll((4, 2), dims=(2, 3)), atol=1e-3)
    made.places.zero_()
    torch.testing.assert_close(
        made(turned, t), made(image, t).roll((4, 2), dims=(2, 3)), atol=1e-4, rtol=1e-4
    )


def test_it_works_on_latents_as_well() -> None:
    method = small(factor=2, patch_size=1)
    assert method.shape(INFO) == (4, 4, 4)
    assert method.sample(2, seed=0).shape == (2, 1, 8, 8)
    assert small().autoencoder is None


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_learns_and_makes_images(guidance: float) -> None:
    method = DiT(guidance=guidance, **SMALL).fit("digits?size=8&n=40", steps=2, batch_size=8)  # type: ignore[arg-type]
    made = method.sample(2, labels=torch.tensor([1, 7]), seed=0)
    assert made.shape == (2, 3, 8, 8)
    assert made.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"patch_size": 0},
        {"depth": 0},
        {"num_heads": 0},
        {"hidden_size": 18},
        {"hidden_size": 20, "num_heads": 3},
        {"mlp_ratio": 0.0},
        {"factor": 3},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        DiT(**options)  # type: ignore[arg-type]


def test_images_that_cannot_be_cut_into_patches_are_refused() -> None:
    with pytest.raises(pinakes.UserError, match="patch_size"):
        small(patch_size=3)
