import numpy as np
import pytest
import torch
from scipy import linalg

from pinakes.nn.sample_quality import (
    density_and_coverage,
    frechet_distance,
    kernel_distance,
    precision_and_recall,
)


def features(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, width, generator=generator)
        @ torch.randn(width, width, generator=torch.Generator().manual_seed(1))
        + shift
    )


def test_the_frechet_distance_is_that_of_scipys_matrix_root() -> None:
    real, made = features(200, 6, 0), features(150, 6, 2, shift=0.5)
    a, b = (each.double().numpy() for each in (real, made))
    first, second = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(real, made).item() == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(real, real).item() == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_is_found_where_there_are_fewer_samples_than_numbers() -> None:
    assert torch.isfinite(frechet_distance(features(10, 32, 0), features(12, 32, 2)))


def test_the_kernel_distance_is_the_mean_over_pairs() -> None:
    real, made = features(7, 4, 0), features(5, 4, 2, shift=0.3)

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() @ b.double() / 4 + 1) ** 3)

    inside = [
        np.mean([kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j])
        for rows in (real, made)
    ]
    between = np.mean([kernel(a, b) for a in real for b in made])
    assert kernel_distance(real, made).item() == pytest.approx(sum(inside) - 2 * between, rel=1e-6)


def naive_reach(rows: torch.Tensor, k: int) -> list[float]:
    return [sorted(float((a - b).norm()) for b in rows)[k] for a in rows]


def test_shares_of_samples_among_others_are_counted_one_by_one() -> None:
    real, made = features(40, 3, 0), features(30, 3, 2, shift=0.7)
    reach, other_reach = naive_reach(real, 3), naive_reach(made, 3)

    def inside(point: torch.Tensor, rows: torch.Tensor, reach: list[float]) -> list[bool]:
        return [float((point - row).norm()) <= far + 1e-9 for row, far in zip(rows, reach, strict=True)]

    precision, recall = precision_and_recall(real, made)
    assert precision.item() == pytest.approx(np.mean([any(inside(x, real, reach)) for x in made]))
    assert recall.item() == pytest.approx(np.mean([any(inside(x, made, other_reach)) for x in real]))
    reach = naive_reach(real, 5)
    table = np.array([inside(x, real, reach) for x in made])
    density, coverage = density_and_coverage(real, made)
    assert density.item() == pytest.approx(table.sum() / (5 * len(made)))
    assert coverage.item() == pytest.approx(table.any(0).mean())


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="k: expected fewer than the 3 samples"):
        precision_and_recall(torch.rand(3, 2), torch.rand(9, 2))
