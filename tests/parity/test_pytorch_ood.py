"""Scores against pytorch-ood's, on the same logits and features.

Its scores are higher where stranger, as ours are. Its Mahalanobis score is half the squared distance, with a covariance
that is summed over the images rather than averaged, and a ridge of 1e-6 on that sum: 2 x images times it is ours, but
for the ridge. Ours leaves out directions that do not vary, where that ridge would make them count a million times.
"""

import pytest
import torch
from torch import Tensor

from pinakes.papers.anomaly.deep_knn_ood import knn_score, unit_features
from pinakes.papers.anomaly.energy_ood import energy_score
from pinakes.papers.anomaly.mahalanobis_ood import fit_gaussians, mahalanobis_score
from pinakes.papers.anomaly.max_logit import max_logit_score
from pinakes.papers.anomaly.max_softmax import max_softmax_score

reference = pytest.importorskip("pytorch_ood.detector", reason="pytorch-ood is not here")


def some(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 100.0])
def test_energy(temperature: float) -> None:
    logits = 5 * some(50, 10)
    expected = reference.EnergyBased.score(logits, t=temperature)
    torch.testing.assert_close(energy_score(logits, temperature), expected, rtol=0, atol=1e-5)


def test_max_logit() -> None:
    logits = 5 * some(50, 10)
    torch.testing.assert_close(max_logit_score(logits), reference.MaxLogit.score(logits), rtol=0, atol=1e-5)


def test_max_softmax() -> None:
    logits = 5 * some(50, 10)
    expected = reference.MaxSoftmax.score(logits)
    torch.testing.assert_close(max_softmax_score(logits), expected, rtol=0, atol=1e-5)


def test_mahalanobis() -> None:
    labels = torch.arange(400) % 4
    features = 3 * some(4, 12, seed=1)[labels] + some(400, 12) @ (torch.eye(12) + 0.3 * some(12, 12, seed=2))
    theirs = reference.Mahalanobis(None).fit_features(features, labels)
    queries = some(50, 12, seed=3)
    gaussians = fit_gaussians(features, labels, 4)
    torch.testing.assert_close(gaussians.means, theirs.mu, rtol=0, atol=1e-5)
    expected = 2 * len(features) * theirs.predict_features(queries)
    torch.testing.assert_close(mahalanobis_score(queries, gaussians), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 10, 200])
def test_nearest_neighbours(k: int) -> None:
    features, queries = some(200, 16).relu(), some(50, 16, seed=1).relu()
    theirs = reference.KNN(None, k=k).fit_features(features, torch.zeros(200, dtype=torch.int64))
    found = knn_score(unit_features(queries), unit_features(features), k)
    torch.testing.assert_close(found.double(), theirs.predict_features(queries), rtol=0, atol=1e-5)
