import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from pinakes.nn.probes import fitted_classifier, fitted_regressor, nearest, nearest_neighbour_classes


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    data, label = load_digits(return_X_y=True)
    return data[:900], label[:900], data[900:], label[900:]


def test_nearest_neighbours_vote_as_in_scikit_learn(digits) -> None:  # type: ignore[no-untyped-def]
    known, label, asked, _ = digits
    expected = KNeighborsClassifier(20, metric="cosine", algorithm="brute").fit(known, label).predict(asked)
    found = nearest_neighbour_classes(torch.tensor(asked), torch.tensor(known), torch.tensor(label))
    assert (found.numpy() == expected).all()


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_classifier_is_scikit_learns_logistic_regression(digits, strength: float) -> None:  # type: ignore[no-untyped-def]
    known, label, asked, _ = digits
    scaler = StandardScaler().fit(known)
    exact = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}
    other = LogisticRegression(C=strength, **exact).fit(scaler.transform(known), label)
    probe = fitted_classifier(torch.tensor(known), torch.tensor(label), 10, strength)
    expected = torch.tensor(other.predict_proba(scaler.transform(asked)))
    torch.testing.assert_close(probe(torch.tensor(asked)).softmax(1), expected, atol=1e-4, rtol=0)


def test_shares_of_classes_count_as_so_many_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    label = torch.randint(2, (40,), generator=generator)
    shares = torch.nn.functional.one_hot(label, 2).double()
    hard, soft = fitted_classifier(features, label, 2), fitted_classifier(features, shares, 2)
    torch.testing.assert_close(hard.weight, soft.weight)
    # a sample of two halves weighs as one of each class at half the strength
    halves = fitted_classifier(features, torch.full((40, 2), 0.5), 2)
    assert halves.weight.abs().max() < 1e-6


def test_the_regressor_is_scikit_learns_ridge() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(3, 2, (80, 7)), rng.normal(3, 2, (30, 7))
    target = known @ rng.normal(size=(7, 2)) + rng.normal(size=(80, 2))
    scaler = StandardScaler().fit(known)
    expected = Ridge(alpha=2.0).fit(scaler.transform(known), target).predict(scaler.transform(asked))
    found = fitted_regressor(torch.tensor(known), torch.tensor(target), ridge=2.0)(torch.tensor(asked))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_features_that_do_not_vary_do_no_harm() -> None:
    features = torch.cat([torch.randn(30, 2), torch.full((30, 1), 7.0)], dim=1)
    probe = fitted_classifier(features, (features[:, 0] > 0).long(), 2)
    assert (probe(features).argmax(1) == (features[:, 0] > 0).long()).double().mean() > 0.9


def test_nearest_looks_at_directions_a_few_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(50, 4)
    whole = nearest(3 * features, features, 3)
    assert (whole[1][:, 0] == torch.arange(50)).all()
    monkeypatch.setattr("pinakes.nn.probes.CHUNK", 7)
    parts = nearest(3 * features, features, 3)
    assert torch.equal(parts[1], whole[1])
