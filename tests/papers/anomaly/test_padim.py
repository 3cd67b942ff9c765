"""PaDiM's parts against NumPy and SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis

from pinakes import UserError, load_data
from pinakes.papers.anomaly.padim import (
    DiagonalPaDiM,
    LevelwisePaDiM,
    PaDiM,
    RunningGaussians,
    mahalanobis,
    patch_embedding,
    whitening,
)


def rows(groups: int = 5, count: int = 40, features: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(groups, features, features, generator=generator)
    return torch.randn(groups, count, features, generator=generator) @ mixing + 30.0


def test_an_embedding_joins_the_cells_in_which_a_position_lies() -> None:
    fine, coarse = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 2, 2)
    found = patch_embedding([fine, coarse], torch.tensor([1, 4, 7]))
    torch.testing.assert_close(found[:, 0], fine[:, 1])
    torch.testing.assert_close(found[:, 1:, 5, 2], coarse[:, [1, 4], 1, 0])


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_streamed_mean_and_covariance_are_those_of_all_rows(batch: int) -> None:
    all_rows = rows()
    gaussians = RunningGaussians(5, 6)
    for part in all_rows.split(batch, dim=1):
        gaussians.add(part)
    for group in range(5):
        expected = np.cov(all_rows[group].double().numpy(), rowvar=False) + 0.01 * np.eye(6)
        found = gaussians.covariance(slice(group, group + 1))[0]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gaussians.mean[group], all_rows[group].double().mean(0), rtol=1e-6)


def test_distances_are_scipys_mahalanobis_distances() -> None:
    all_rows = rows().double()
    mean = all_rows.mean(1)
    covariance = torch.stack([torch.cov(each.T) for each in all_rows]) + 0.01 * torch.eye(6)
    found = mahalanobis(all_rows, mean, whitening(covariance))
    inverse = np.linalg.inv(covariance.numpy())
    expected = [
        [scipy_mahalanobis(row, mean[group], inverse[group]) for row in all_rows[group]] for group in range(5)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_memory_does_not_grow_with_the_images() -> None:
    gaussians = RunningGaussians(4, 3)
    kept = (gaussians.mean.data_ptr(), gaussians.scatter.data_ptr())
    for _ in range(20):
        gaussians.add(torch.rand(4, 8, 3))
    assert (gaussians.mean.data_ptr(), gaussians.scatter.data_ptr()) == kept
    assert gaussians.count == 160


@pytest.fixture(scope="module")
def fitted() -> dict[type[PaDiM], PaDiM]:
    data = load_data("textures?size=32&n=8", task="anomaly")
    return {kind: kind(features=12).fit(data) for kind in (PaDiM, DiagonalPaDiM, LevelwisePaDiM)}


def test_baselines_leave_out_correlations_and_nothing_else(fitted: dict[type[PaDiM], PaDiM]) -> None:
    full, diagonal, levelwise = fitted[PaDiM], fitted[DiagonalPaDiM], fitted[LevelwisePaDiM]
    assert torch.equal(full.chosen, diagonal.chosen)
    covariance = torch.linalg.inv(full.whiten.double().mT @ full.whiten.double())
    for other in (diagonal, levelwise):
        theirs = torch.linalg.inv(other.whiten.double().mT @ other.whiten.double())
        expected = torch.where(other.correlated(), covariance, torch.zeros_like(covariance))
        torch.testing.assert_close(theirs, expected, rtol=1e-3, atol=1e-4)
    level = np.repeat(np.arange(3), full.backbone.widths)[full.chosen.numpy()]
    assert np.array_equal(levelwise.correlated().numpy(), level[:, None] == level)


def test_the_score_is_the_largest_value_of_the_map(fitted: dict[type[PaDiM], PaDiM]) -> None:
    prediction = fitted[PaDiM].predict(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(prediction["score"], prediction["map"].flatten(1).max(1).values)


def test_images_of_another_size_are_refused(fitted: dict[type[PaDiM], PaDiM]) -> None:
    with pytest.raises(ValueError, match="image: PaDiM was fitted on 32x32"):
        fitted[PaDiM].predict(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("options", "named"),
    [({"features": 0}, "features"), ({"epsilon": 0.0}, "epsilon"), ({"sigma": -1.0}, "sigma")],
)
def test_options_out_of_range_are_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(UserError, match=named):
        PaDiM(**options)  # type: ignore[arg-type]


def test_more_features_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match="features"):
        PaDiM(features=10**5).fit("textures?size=32&n=8")
