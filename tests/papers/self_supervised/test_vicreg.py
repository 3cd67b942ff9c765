import math

import pytest
import torch

import pinakes
from pinakes.papers.self_supervised.vicreg import VICReg, covariance_penalty, lack_of_variance, vicreg_loss


def rows(seed: int) -> torch.Tensor:
    return torch.randn(9, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive_covariance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - one.mean()) * (other - other.mean())).sum() / (len(one) - 1))


def test_each_term_is_the_formula_written_out() -> None:
    found = 0.7 * rows(0)
    columns = found.T
    lack = sum(max(0.0, 1 - math.sqrt(naive_covariance(each, each) + 1e-4)) for each in columns) / 4
    penalty = sum(naive_covariance(columns[i], columns[j]) ** 2 for i in range(4) for j in range(4) if i != j)
    assert lack_of_variance(found).item() == pytest.approx(lack, abs=1e-10)
    assert covariance_penalty(found).item() == pytest.approx(penalty / 4, abs=1e-10)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    one, other = rows(0), rows(1)
    distance = float((one - other).square().mean())
    lack = (lack_of_variance(one) + lack_of_variance(other)).item() / 2
    penalty = (covariance_penalty(one) + covariance_penalty(other)).item()
    expected = 2 * distance + 3 * lack + 5 * penalty
    assert vicreg_loss(one, other, 2.0, 3.0, 5.0).item() == pytest.approx(expected, abs=1e-10)


def test_full_collapse_has_no_distance_and_no_covariance_but_lacks_all_variance() -> None:
    same = torch.ones(8, 5)
    assert vicreg_loss(same, same, 25.0, 0.0, 1.0) == 0
    assert vicreg_loss(same, same, 0.0, 1.0, 0.0).item() == pytest.approx(1 - 0.01, abs=1e-6)


def test_the_gradient_of_a_collapsed_batch_is_finite() -> None:
    same = torch.ones(8, 5, requires_grad=True)
    vicreg_loss(same, same).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize(
    "options", [{"invariance": -1.0}, {"variance": -1.0}, {"covariance": -1.0}, {"projection": 0}]
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(pinakes.UserError, match=next(iter(options))):
        VICReg(**options)
