"""The free energy against SciPy, and what a softmax does not see."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from pinakes import UserError, load_data
from pinakes.papers.anomaly.energy_ood import EnergyDetector, energy_score
from pinakes.papers.anomaly.max_softmax import max_softmax_score

BACKBONE = "pinakes/tiny_conv@random"


def some_logits() -> torch.Tensor:
    return 5 * torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_energy_equals_that_by_scipy(temperature: float) -> None:
    logits = some_logits()
    expected = -temperature * logsumexp(logits.numpy() / temperature, axis=1)
    np.testing.assert_allclose(energy_score(logits, temperature).numpy(), expected, rtol=0, atol=1e-12)


def test_energy_tells_high_logits_from_low_ones_that_a_softmax_takes_for_the_same() -> None:
    known = torch.tensor([[11.0, 19.0]])
    unknown = known - 10
    torch.testing.assert_close(max_softmax_score(known), max_softmax_score(unknown))
    torch.testing.assert_close(energy_score(unknown) - energy_score(known), torch.tensor([10.0]))


def test_energy_of_a_low_temperature_is_minus_the_largest_logit() -> None:
    logits = some_logits()
    torch.testing.assert_close(energy_score(logits, 1e-3), -logits.amax(1), rtol=0, atol=1e-2)


def test_energy_of_large_logits_is_finite_and_its_gradient_is_minus_the_softmax() -> None:
    logits = torch.tensor([[1e4, 0.0], [-1e4, -1e4]], dtype=torch.float64, requires_grad=True)
    energy = energy_score(logits)
    assert energy.isfinite().all()
    energy.sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, -logits.detach().softmax(1))


def test_detector_scores_the_logits_of_its_classifier() -> None:
    data = load_data("digits?n=40", task="ood")
    detector = EnergyDetector(temperature=2.0, backbone=BACKBONE).fit(data, steps=1, batch_size=4)
    image = torch.stack([data.test[i]["image"] for i in range(3)])  # type: ignore[index]  # digits have a test part
    with torch.no_grad():
        logits = detector.classifier(image)
    found = detector.predict(image)
    torch.testing.assert_close(found["score"], energy_score(logits, 2.0))
    assert torch.equal(found["label"], logits.argmax(1))


@pytest.mark.parametrize(
    "option", [{"temperature": 0.0}, {"temperature": float("nan")}, {"learning_rate": 0.0}]
)
def test_an_option_out_of_range_is_named(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        EnergyDetector(**option)  # type: ignore[arg-type]
