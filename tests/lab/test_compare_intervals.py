import math

import pytest
import torch

from pinakes.lab.intervals import Estimate


def test_interval_is_students_t_over_the_seeds() -> None:
    found = Estimate((0.90, 0.92, 0.97))
    mean = 0.93
    deviation = math.sqrt(((0.90 - mean) ** 2 + (0.92 - mean) ** 2 + (0.97 - mean) ** 2) / 2)
    assert found.mean == pytest.approx(mean)
    assert found.half_width == pytest.approx(4.302652729911275 * deviation / math.sqrt(3))  # t(0.975, 2)


def test_interval_of_two_seeds_against_the_closed_form_of_t_with_one_degree_of_freedom() -> None:
    # with one degree of freedom t is the Cauchy distribution, whose quantile is tan(pi (p - 1/2))
    assert Estimate((1.0, 2.0)).half_width == pytest.approx(math.tan(math.pi * 0.475) * 0.5)


def test_interval_holds_the_true_mean_95_times_in_100() -> None:
    draws = torch.randn(4000, 4, generator=torch.Generator().manual_seed(0)).tolist()
    held = [low <= 0 <= high for low, high in (Estimate(tuple(four)).interval or (1, 1) for four in draws)]
    assert sum(held) / len(held) == pytest.approx(0.95, abs=0.01)


def test_one_seed_has_a_mean_and_no_interval() -> None:
    assert Estimate((0.5,)).mean == 0.5
    assert Estimate((0.5,)).half_width is None
    assert Estimate((0.5,)).interval is None


def test_values_that_are_not_finite_are_left_out_of_the_mean_but_kept() -> None:
    found = Estimate((0.5, math.nan, 0.7))
    assert found.mean == pytest.approx(0.6)
    assert found.finite == (0.5, 0.7)
    assert found.as_json()["values"] == [0.5, None, 0.7]
    assert Estimate.from_json(found.as_json()).finite == (0.5, 0.7)


def test_no_value_has_no_mean() -> None:
    assert math.isnan(Estimate((math.nan,)).mean)
    assert Estimate().as_json() == {"mean": None, "half_width": None, "values": []}
