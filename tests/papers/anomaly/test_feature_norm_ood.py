"""The norms against naive loops and the paper's theorem 3, and their union with a distance."""

import pytest
import torch
from torch import Tensor

from pinakes import UserError, load_data
from pinakes.nn.classifier import ImageClassifier
from pinakes.papers.anomaly.deep_knn_ood import DeepKNN
from pinakes.papers.anomaly.feature_norm_ood import (
    FeatureNorm,
    active_units,
    l1_norm,
    negative_aware_norm,
    norm_calibrated,
)

BACKBONE = "pinakes/tiny_conv@random"


def some_activations(rows: int = 8, units: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, units, generator=generator, dtype=torch.float64).relu()


def some_images() -> Tensor:
    test = load_data("digits?n=40", task="ood").test
    assert test is not None
    return torch.stack([test[i]["image"] for i in range(4)])


def test_negative_aware_norm_equals_the_naive_loop() -> None:
    activations = some_activations()
    expected = []
    for row in activations.tolist():
        off = sum(value <= 0 for value in row)
        expected.append(sum(abs(value) for value in row) * (len(row) - off) ** -1)
    found = negative_aware_norm(activations)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_units_below_zero_add_to_the_norm_but_do_not_count_as_on() -> None:
    activation = torch.tensor([[2.0, -1.0, 0.0, 1.0]])
    assert active_units(activation).tolist() == [2]
    assert l1_norm(activation).tolist() == [4.0]
    assert negative_aware_norm(activation).tolist() == [2.0]


def test_switching_units_off_leaves_the_l1_norm_and_raises_the_negative_aware_one() -> None:
    spread, sparse = torch.full((1, 8), 1.0), torch.tensor([[4.0, 4.0] + [0.0] * 6])
    assert torch.equal(l1_norm(spread), l1_norm(sparse))
    assert negative_aware_norm(sparse) == 4 * negative_aware_norm(spread)


def test_l1_norm_is_the_largest_logit_of_the_hidden_classifier_that_agrees_in_sign() -> None:
    activations = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    signs = torch.where(activations > 0, 1.0, -1.0)
    hidden_logits = activations @ signs.T
    torch.testing.assert_close(hidden_logits.diagonal(), l1_norm(activations))
    assert (hidden_logits.amax(1) == hidden_logits.diagonal()).all()


def test_scores_of_an_activation_that_is_all_off_are_finite() -> None:
    off = torch.zeros(2, 5)
    assert torch.equal(negative_aware_norm(off), torch.zeros(2))
    assert norm_calibrated(torch.ones(2), negative_aware_norm(off)).isfinite().all()


def test_last_layer_of_the_default_backbone_is_behind_a_rectifier() -> None:
    classifier = ImageClassifier("pinakes/tiny_conv", 3).eval()
    with torch.no_grad():
        maps = classifier.maps(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert (maps >= 0).all()
    assert (maps == 0).any()


@pytest.mark.parametrize(("norm", "formula"), [("negative-aware", negative_aware_norm), ("l1", l1_norm)])
def test_detector_scores_minus_the_norm_of_what_its_linear_layer_sees(norm: str, formula: object) -> None:
    detector = FeatureNorm(norm, backbone=BACKBONE).fit("digits?n=40", steps=1, batch_size=4)
    seen: list[Tensor] = []
    handle = detector.classifier.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    image = some_images()
    with torch.no_grad():
        label = detector.classifier(image).argmax(1)
    handle.remove()
    found = detector.predict(image)
    torch.testing.assert_close(found["score"], -formula(seen[0]))  # type: ignore[operator]
    assert torch.equal(found["label"], label)
    assert len(detector.bank) == 0


def test_with_neighbours_the_score_is_that_of_deep_knn_divided_by_the_norm() -> None:
    settings = {"steps": 1, "batch_size": 4}
    ours = FeatureNorm(k=5, backbone=BACKBONE).fit("digits?n=40", **settings)
    knn = DeepKNN(k=5, backbone=BACKBONE).fit("digits?n=40", **settings)
    image = some_images()
    with torch.no_grad():
        norm = negative_aware_norm(knn.classifier.features(image))
    torch.testing.assert_close(ours.predict(image)["score"], knn.predict(image)["score"] / norm)


@pytest.mark.parametrize("option", [{"norm": "l3"}, {"k": -1}, {"learning_rate": 0.0}])
def test_an_option_out_of_range_is_named(option: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        FeatureNorm(**option)  # type: ignore[arg-type]
