"""Class Gaussians and Mahalanobis distances against scikit-learn and NumPy; the step towards known images."""

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor

from pinakes import UserError, load_data
from pinakes.papers.anomaly.mahalanobis_ood import (
    ClassGaussians,
    Mahalanobis,
    fit_gaussians,
    mahalanobis_distances,
    mahalanobis_score,
    towards_known,
)

BACKBONE = "pinakes/tiny_conv@random"


def known_features(images: int = 60, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(images) % 3
    centres = 3 * torch.randn(3, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(images, width, generator=generator, dtype=torch.float64)
    return centres[labels] + noise @ mixing, labels


def test_gaussians_are_class_means_and_the_pooled_covariance_of_scikit_learn() -> None:
    features, labels = known_features()
    means, whitening = fit_gaussians(features, labels, 3)
    expected = np.stack([features[labels == c].mean(0).numpy() for c in range(3)])
    np.testing.assert_allclose(means.numpy(), expected, rtol=0, atol=1e-12)
    pooled = EmpiricalCovariance(assume_centered=True).fit((features - means[labels]).numpy())
    np.testing.assert_allclose((whitening @ whitening.T).numpy(), pooled.precision_, rtol=1e-9, atol=1e-12)


def test_unequal_classes_weigh_the_covariance_by_their_images() -> None:
    features, _ = known_features(40)
    labels = torch.tensor([0] * 5 + [1] * 35)
    _, whitening = fit_gaussians(features, labels, 2)
    scatter = sum(
        np.cov(features[labels == c].numpy().T, bias=True) * int((labels == c).sum()) for c in range(2)
    )
    np.testing.assert_allclose(
        (whitening @ whitening.T).numpy(), np.linalg.inv(scatter / 40), rtol=1e-9, atol=1e-12
    )


def test_distances_equal_the_quadratic_form_written_out() -> None:
    features, labels = known_features()
    gaussians = fit_gaussians(features, labels, 3)
    queries = torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centred = (features - gaussians.means[labels]).numpy()
    precision = np.linalg.inv(centred.T @ centred / len(centred))
    expected = np.array(
        [[(q - m) @ precision @ (q - m) for m in gaussians.means.numpy()] for q in queries.numpy()]
    )
    np.testing.assert_allclose(mahalanobis_distances(queries, gaussians).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(mahalanobis_score(queries, gaussians).numpy(), expected.min(1), rtol=1e-9)


def test_distances_do_not_change_with_the_scale_of_the_features_or_their_mixture() -> None:
    features, labels = known_features()
    queries = features[:4] + 1
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = mahalanobis_score(queries, fit_gaussians(features, labels, 3))
    mixed = mahalanobis_score(queries @ mixing, fit_gaussians(features @ mixing, labels, 3))
    torch.testing.assert_close(plain, mixed, rtol=1e-6, atol=1e-9)


def test_directions_in_which_known_images_do_not_vary_are_left_out_as_by_a_pseudo_inverse() -> None:
    features, labels = known_features(8, 20)
    gaussians = fit_gaussians(features, labels, 3)
    assert gaussians.whitening.shape == (20, 8 - 3)
    centred = features - gaussians.means[labels]
    expected = torch.linalg.pinv(centred.T @ centred / 8, hermitian=True)
    torch.testing.assert_close(gaussians.whitening @ gaussians.whitening.T, expected, rtol=1e-6, atol=1e-9)


def test_a_class_without_images_is_an_error_that_names_it() -> None:
    features, labels = known_features()
    with pytest.raises(ValueError, match="labels: no image of class 3"):
        fit_gaussians(features, labels, 5)


def test_step_towards_known_images_has_the_size_of_the_noise_and_lowers_the_score() -> None:
    features, labels = known_features(60, 6)
    means, whitening = (each.float() for each in fit_gaussians(features, labels, 3))
    image = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(1))

    def score(each: Tensor) -> Tensor:
        return mahalanobis_score(each.flatten(1), ClassGaussians(means, whitening))

    with torch.no_grad():
        moved = towards_known(image, score, 0.01)
    assert not moved.requires_grad
    torch.testing.assert_close((moved - image).abs(), torch.full_like(image, 0.01), rtol=0, atol=1e-6)
    assert (score(moved) < score(image)).all()
    nearest = means[mahalanobis_distances(image.flatten(1), ClassGaussians(means, whitening)).argmin(1)]
    gradient = 2 * (image.flatten(1) - nearest) @ whitening @ whitening.T
    assert torch.equal((image - moved).flatten(1).sign(), gradient.sign())


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_detector_scores_by_the_gaussians_of_its_training_images(noise: float) -> None:
    data = load_data("digits?n=40", task="ood")
    detector = Mahalanobis(noise=noise, backbone=BACKBONE).fit(data, steps=2, batch_size=4, hold_out=0)
    images = torch.stack([data.train[i]["image"] for i in range(len(data.train))])
    labels = torch.tensor([int(data.train[i]["label"]) for i in range(len(data.train))])
    with torch.no_grad():
        features = detector.classifier.features(images)
        logits = detector.classifier(images)
    gaussians = fit_gaussians(features, labels, len(data.info.classes))
    detector.zero_grad()
    found = detector.predict(images)
    assert all(parameter.grad is None for parameter in detector.parameters())
    assert torch.equal(found["label"], logits.argmax(1))
    expected = mahalanobis_score(features, gaussians)
    if noise == 0:
        torch.testing.assert_close(found["score"], expected, rtol=1e-3, atol=1e-3)
    else:
        assert (found["score"] < expected).double().mean() > 0.9


def test_a_class_that_is_not_in_the_training_images_is_refused() -> None:
    data = load_data("digits?n=40", task="ood")
    samples = [data.train[i] for i in range(len(data.train)) if int(data.train[i]["label"]) != 2]
    with pytest.raises(UserError, match="no image of class 2"):
        Mahalanobis(backbone=BACKBONE).fit((samples, data.info), steps=1, batch_size=4, hold_out=0)


@pytest.mark.parametrize("option", [{"noise": -0.1}, {"noise": float("nan")}, {"learning_rate": 0.0}])
def test_an_option_out_of_range_is_named(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        Mahalanobis(**option)  # type: ignore[arg-type]
