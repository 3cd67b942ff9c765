"""The normalised distance, the restricted latent space and the certainty decomposition against naive loops."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from pinakes import DataInfo, UserError, load_data
from pinakes.papers.anomaly.nl2_autoencoder_ood import (
    NL2Autoencoder,
    SemanticAutoencoder,
    class_evidence,
    log_certainty,
    normalised_l2,
    plain_l2,
    relative_l2,
    semantic_loss,
)

BACKBONE = "pinakes/tiny_conv@random"


def pair(rows: int = 6, width: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return first, second


def length(vector: list[float]) -> float:
    return math.sqrt(sum(value * value for value in vector))


def naive(first: Tensor, second: Tensor, *, own_length: bool) -> list[float]:
    distances = []
    for f, g in zip(first.tolist(), second.tolist(), strict=True):
        by = length(g) if own_length else length(f)
        distances.append(length([a / length(f) - b / by for a, b in zip(f, g, strict=True)]))
    return distances


def test_normalised_l2_equals_the_naive_loop() -> None:
    first, second = pair()
    expected = torch.tensor(naive(first, second, own_length=True), dtype=torch.float64)
    torch.testing.assert_close(normalised_l2(first, second), expected, rtol=0, atol=1e-12)


def test_relative_l2_equals_the_naive_loop_of_the_released_form() -> None:
    first, second = pair()
    expected = torch.tensor(naive(first, second, own_length=False), dtype=torch.float64)
    torch.testing.assert_close(relative_l2(first, second), expected, rtol=0, atol=1e-12)


def test_normalised_l2_is_the_chord_of_the_angle() -> None:
    first, second = pair()
    chord = (2 - 2 * torch.cosine_similarity(first, second)).sqrt()
    torch.testing.assert_close(normalised_l2(first, second), chord, rtol=0, atol=1e-12)


def test_normalised_l2_leaves_out_the_length_of_either_and_relative_l2_their_common_length() -> None:
    first, second = pair()
    torch.testing.assert_close(normalised_l2(300 * first, 0.01 * second), normalised_l2(first, second))
    torch.testing.assert_close(relative_l2(300 * first, 300 * second), relative_l2(first, second))
    assert (relative_l2(first, 300 * second) > relative_l2(first, second)).all()


def test_short_features_hide_from_plain_l2_only() -> None:
    first, second = pair()
    assert (plain_l2(0.01 * first, 0.01 * second) < 0.011 * plain_l2(first, second)).all()


@pytest.mark.parametrize("distance", [normalised_l2, relative_l2])
def test_distances_have_the_right_gradients(distance: object) -> None:
    first, second = (each.requires_grad_() for each in pair(3, 4))
    assert torch.autograd.gradcheck(distance, (first, second))


@pytest.mark.parametrize("distance", [normalised_l2, relative_l2, plain_l2])
def test_distances_of_equal_and_of_empty_features_are_finite(distance: object) -> None:
    zeros, ones = torch.zeros(2, 4), torch.ones(2, 4, requires_grad=True)
    assert torch.equal(distance(ones, ones.detach()), torch.zeros(2))  # type: ignore[operator]
    found = distance(zeros, zeros)  # type: ignore[operator]
    assert torch.equal(found, torch.zeros(2))
    distance(ones, ones.detach()).sum().backward()  # type: ignore[operator]
    assert ones.grad is not None
    assert ones.grad.isfinite().all()


def test_latent_space_is_the_simplex() -> None:
    torch.manual_seed(0)
    latent = SemanticAutoencoder(12, 5)(1e3 * torch.randn(200, 12)).latent
    assert latent.shape == (200, 5)
    assert (latent > 0).all()
    torch.testing.assert_close(latent.sum(dim=1), torch.ones(200))


def test_logits_are_decoded_from_the_latent_space_alone() -> None:
    torch.manual_seed(0)
    autoencoder, features = SemanticAutoencoder(12, 5), torch.randn(3, 12)
    before = autoencoder(features)
    with torch.no_grad():
        autoencoder.logits.bias += 50
    after = autoencoder(features)
    torch.testing.assert_close(after.decoded_logits, before.decoded_logits)
    assert not torch.allclose(after.features, before.features)


def test_reconstruction_is_the_chain_of_layers_written_out() -> None:
    torch.manual_seed(0)
    autoencoder, f = SemanticAutoencoder(6, 3, temperature=7.0).double(), torch.randn(4, 6).double()
    made = autoencoder(f)

    def decoded(decoder: torch.nn.Module, x: Tensor) -> Tensor:
        weights = list(decoder.parameters())
        for weight, bias in zip(weights[:-2:2], weights[1:-2:2], strict=True):
            x = x @ weight.T + bias
            x = x * torch.sigmoid(x)
        return x @ weights[-2].T + weights[-1]

    z = f @ autoencoder.logits.weight.T + autoencoder.logits.bias
    p = torch.exp(z / 7) / torch.exp(z / 7).sum(dim=1, keepdim=True)
    torch.testing.assert_close(made.features, decoded(autoencoder.features_decoder, z))
    torch.testing.assert_close(made.decoded_logits, decoded(autoencoder.logits_decoder, p))
    y = torch.tensor([0, 2, 1, 0])
    errors = (f - made.features).pow(2).sum() / 4 + (z / 7 - made.decoded_logits).pow(2).sum() / 4
    torch.testing.assert_close(semantic_loss(f, made), errors)
    crossed = -torch.log_softmax(z, dim=1)[range(4), y].mean()
    torch.testing.assert_close(semantic_loss(f, made, y), errors + crossed)


def test_log_certainty_equals_the_product_of_normal_distribution_functions() -> None:
    errors, logits = torch.rand(8, 2, dtype=torch.float64), 100 * torch.randn(8, 4, dtype=torch.float64)
    evidence = torch.cat([class_evidence(logits)[:, None], -errors], dim=1)
    location, scale = evidence.mean(dim=0), evidence.std(dim=0, correction=0)
    probability = (logits / 1000).softmax(dim=1).amax(dim=1).numpy()
    expected = norm.cdf(probability, *_widened(norm.fit(probability)))
    for error in errors.T.numpy():
        expected = expected * (1 - norm.cdf(error, *_widened(norm.fit(error))))
    found = log_certainty(evidence, location, scale).exp()
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)


def _widened(fit: tuple[float, float]) -> tuple[float, float]:
    return fit[0], 10 * fit[1]


def test_log_certainty_orders_even_the_very_uncertain() -> None:
    evidence = torch.tensor([[-1.0], [-1e4], [-1e6]])
    found = log_certainty(evidence, torch.zeros(1), torch.zeros(1))
    assert found.isfinite().all()
    assert found[0] > found[1] > found[2]


def test_gradients_reach_the_autoencoder_and_spare_the_backbone() -> None:
    torch.manual_seed(0)
    method = NL2Autoencoder(BACKBONE).prepare(DataInfo(3, (32, 32)))
    before = {name: value.clone() for name, value in method.backbone.state_dict().items()}
    method.train()
    optimiser = method.configure_optimizers()
    method.training_step({"image": torch.rand(4, 3, 32, 32)}, 0).backward()
    optimiser.step()
    assert all(p.grad is not None and p.grad.any() for p in method.autoencoder.parameters())
    assert all(p.grad is None for p in method.backbone.parameters())
    for name, value in method.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_fitting_lowers_the_loss_and_centres_the_gaussians_on_the_training_images() -> None:
    data = load_data("textures?size=32&n=16", task="anomaly")
    batch = {"image": torch.stack([data.train[index]["image"] for index in range(len(data.train))])}
    untrained = NL2Autoencoder(BACKBONE).prepare(data.info)
    method = NL2Autoencoder(BACKBONE).fit(data, hold_out=0, steps=15, batch_size=8)
    with torch.no_grad():
        assert method.training_step(batch, 0) < 0.8 * untrained.training_step(batch, 0)
        evidence = method.evidence(method.describe(batch["image"]))
    torch.testing.assert_close(method.location, evidence.mean(dim=0), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(method.scale, evidence.std(dim=0, correction=0), rtol=1e-3, atol=1e-5)
    prediction = method.predict(batch)
    assert list(prediction) == ["score"]
    method.task.check_prediction(batch, prediction, method.info)
    assert (prediction["score"] >= 0).all()


@pytest.mark.parametrize(
    "option",
    [{"latent": 1}, {"temperature": 0.0}, {"epsilon": -1.0}, {"learning_rate": 0.0}, {"distance": "cosine"}],
)
def test_an_option_out_of_range_is_named(option: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        NL2Autoencoder(**option)  # type: ignore[arg-type]


def test_a_layer_that_the_backbone_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="backbone"):
        NL2Autoencoder(BACKBONE, layer=9).prepare(DataInfo(3, (32, 32)))
