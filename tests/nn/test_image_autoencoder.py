"""The autoencoder's parts against naive loops and torch.distributions, and its training."""

import copy

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pinakes.data import load_data
from pinakes.data.base import SampleSet
from pinakes.nn.image_autoencoder import (
    ImageAutoencoder,
    KLAutoencoder,
    PatchDiscriminator,
    PerceptualLoss,
    VQAutoencoder,
    adaptive_weight,
    closest_codes,
    code_vectors,
    hinge_loss,
    kl_to_normal,
    straight_through,
    train_autoencoder,
)
from pinakes.nn.image_tokenizer import vector_quantisation_loss

BOTH = pytest.mark.parametrize("kind", [KLAutoencoder, VQAutoencoder])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def digits(n: int = 40) -> SampleSet:
    return load_data(f"digits?size=16&channels=1&n={n}", task="generation").train


def test_the_divergence_is_that_of_torch() -> None:
    mean, log_variance = random(3, 4, 5, 6).double(), random(3, 4, 5, 6, seed=1).double()
    whole = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_normal(mean, log_variance), whole.sum((1, 2, 3)), atol=1e-10, rtol=1e-10)


def test_the_closest_codes_are_those_of_a_naive_loop() -> None:
    vectors, codebook = random(2, 3, 4, 5), random(7, 3, seed=1)
    tokens = closest_codes(vectors, codebook)
    for b in range(2):
        for row in range(4):
            for column in range(5):
                distances = [float((vectors[b, :, row, column] - code).norm()) for code in codebook]
                assert tokens[b, row, column] == distances.index(min(distances))
                vector = code_vectors(tokens, codebook)[b, :, row, column]
                assert torch.equal(vector, codebook[tokens[b, row, column]])


def test_the_gradient_passes_the_codes_by() -> None:
    vectors, codes = random(2, 3, 4, 5).requires_grad_(), random(2, 3, 4, 5, seed=1).requires_grad_()
    passed = straight_through(vectors, codes)
    torch.testing.assert_close(passed, codes)
    weight = random(2, 3, 4, 5, seed=2)
    (weight * passed).sum().backward()
    torch.testing.assert_close(vectors.grad, weight)
    assert codes.grad is None


def test_codes_are_moved_to_vectors_and_vectors_held_by_a_share_of_it() -> None:
    vectors, codes = random(2, 3, 4, 5).requires_grad_(), random(2, 3, 4, 5, seed=1).requires_grad_()
    vector_quantisation_loss(vectors, codes, 0.25).backward()
    pull = 2 * (codes - vectors).detach() / codes.numel()
    torch.testing.assert_close(codes.grad, pull)
    torch.testing.assert_close(vectors.grad, -0.25 * pull)


@BOTH
@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [(16, 16), (13, 9)])
def test_any_size_of_image_comes_back(
    kind: type[ImageAutoencoder], factor: int, size: tuple[int, int]
) -> None:
    autoencoder = kind(channels=2, factor=factor, latent_channels=3, width=8)
    image = torch.rand(2, 2, *size)
    latent = autoencoder.encode(image)
    assert latent.shape == (2, 3, *autoencoder.grid(size))
    assert autoencoder.decode(latent, size).shape == image.shape
    # the entries of a codebook are at first the vectors of the images themselves
    autoencoder(torch.rand(2, 2, *size))
    painted, penalty = autoencoder(image)
    assert painted.shape == image.shape
    assert penalty > 0
    (painted.mean() + penalty).backward()
    assert all(each.grad is not None and each.grad.any() for each in autoencoder.parameters())


def test_codes_are_replaced_when_they_are_decoded_and_may_be_stored_as_numbers() -> None:
    autoencoder = VQAutoencoder(channels=1, width=8, codes=5).eval()
    image = torch.rand(2, 1, 16, 16)
    latent, tokens = autoencoder.encode(image), autoencoder.tokens(image)
    torch.testing.assert_close(autoencoder.decode(latent), autoencoder.decode_tokens(tokens))
    torch.testing.assert_close(
        autoencoder.decode(latent), autoencoder.painted(code_vectors(tokens, autoencoder.codebook))
    )
    assert not torch.allclose(autoencoder.decode(latent), autoencoder.painted(latent))


def test_codes_that_lie_far_from_all_vectors_are_put_where_images_are() -> None:
    autoencoder = VQAutoencoder(channels=1, width=8, codes=16)
    with torch.no_grad():
        autoencoder.codebook.copy_(1000 + autoencoder.codebook)
    autoencoder.eval()(torch.rand(4, 1, 16, 16))
    assert (autoencoder.codebook > 900).all()
    autoencoder.train()(torch.rand(4, 1, 16, 16))
    assert (autoencoder.codebook < 900).all()
    kept = autoencoder.codebook.clone()
    autoencoder(torch.rand(4, 1, 16, 16))
    assert torch.equal(autoencoder.codebook, kept)


def test_the_difference_of_features_is_none_for_equal_images_and_grows_with_noise() -> None:
    compare, image = PerceptualLoss(), torch.rand(2, 1, 20, 16)
    assert compare(image, image) == 0
    little, much = (
        compare((image + share * random(2, 1, 20, 16)).clamp(0, 1), image) for share in (0.05, 0.5)
    )
    assert 0 < little < much < 4


def test_the_hinge_loss_stops_where_the_discriminator_is_sure() -> None:
    assert hinge_loss(torch.full((2,), 3.0), torch.full((2,), -1.5)) == 0
    real, made = random(20), random(20, seed=1)
    naive = sum(
        max(0.0, 1 - r) / 40 + max(0.0, 1 + m) / 40 for r, m in zip(real.tolist(), made.tolist(), strict=True)
    )
    assert hinge_loss(real, made).item() == pytest.approx(naive, rel=1e-5)


def test_the_adaptive_weight_evens_out_the_pulls_at_the_last_layer() -> None:
    autoencoder, judge, image = KLAutoencoder(1, width=8), PatchDiscriminator(1), torch.rand(3, 1, 16, 16)
    painted, _ = autoencoder(image)
    error, fooled, last = (painted - image).abs().mean(), -judge(painted).mean(), autoencoder.paint.weight
    weight = adaptive_weight(error, fooled, last)
    (pull,) = torch.autograd.grad(error, last, retain_graph=True)
    (other,) = torch.autograd.grad(weight * fooled, last)
    torch.testing.assert_close(other.norm(), pull.norm(), rtol=0.05, atol=0)


@BOTH
@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_training_is_repeatable_and_leaves_a_frozen_network(
    kind: type[ImageAutoencoder], adversarial: float
) -> None:
    first = kind(channels=1, width=8)
    second = copy.deepcopy(first)
    state = torch.get_rng_state()
    for each in (first, second):
        train_autoencoder(each, digits(), steps=4, batch_size=8, seed=3, adversarial=adversarial)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(each.requires_grad for each in first.parameters())
    assert not first.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@BOTH
def test_images_come_back_better_after_training(kind: type[ImageAutoencoder]) -> None:
    torch.manual_seed(0)
    autoencoder, samples = kind(channels=1, width=8), digits(200)
    train_autoencoder(autoencoder, samples, steps=60, batch_size=16, perceptual=0.0, learning_rate=5e-3)
    image = torch.stack([samples[index]["image"] for index in range(100)])
    error = (autoencoder.decode(autoencoder.encode(image)) - image).square().mean()
    assert error < 0.3 * (image - image.mean(0)).square().mean()


def test_training_stops_when_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    autoencoder = KLAutoencoder(channels=1, width=8)
    train_autoencoder(autoencoder, digits(), steps=1000, batch_size=8, perceptual=0.0, seconds=1e-6)
    assert "step 1 of 1000" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("factor", 3), ("factor", 1), ("width", 12)])
def test_a_form_that_cannot_be_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        KLAutoencoder(**{name: value})
