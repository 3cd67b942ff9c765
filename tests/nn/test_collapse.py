import math

import pytest
import torch
from torch.nn import functional

from pinakes.nn.collapse import alignment, effective_rank, leave_one_out_accuracy, spread, uniformity


def test_the_rank_counts_directions_that_are_used_alike() -> None:
    for count in (1, 3, 8):
        rows = torch.zeros(16, 8)
        for direction in range(count):
            # pairs of opposite points, so that the mean is 0 already
            rows[2 * direction, direction], rows[2 * direction + 1, direction] = 1, -1
        assert effective_rank(rows).item() == pytest.approx(count, abs=1e-4)


def test_the_rank_is_the_entropy_of_singular_values_written_out() -> None:
    rows = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals((rows - rows.mean(0)).double()).tolist()
    shares = [value / sum(values) for value in values]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(rows + 5).item() == pytest.approx(expected, abs=1e-4)


def test_signs_of_full_collapse() -> None:
    same = torch.ones(10, 4)
    assert effective_rank(same).item() == pytest.approx(1.0, abs=1e-4)
    assert spread(same).item() == pytest.approx(0.0, abs=1e-6)
    assert uniformity(same).item() == pytest.approx(0.0, abs=1e-6)


def test_the_spread_of_points_all_over_the_sphere_is_about_1() -> None:
    rows = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert spread(rows).item() == pytest.approx(1.0, abs=0.02)


def test_alignment_is_0_for_the_same_direction_and_4_for_the_opposite() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert alignment(rows, 7 * rows).item() == pytest.approx(0.0, abs=1e-6)
    assert alignment(rows, -rows).item() == pytest.approx(4.0, abs=1e-5)


def test_uniformity_is_the_formula_written_out() -> None:
    rows = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = functional.normalize(rows, dim=1)
    terms = [math.exp(-2 * (normal[i] - normal[j]).square().sum().item()) for i in range(6) for j in range(i)]
    assert uniformity(rows).item() == pytest.approx(math.log(sum(terms) / len(terms)), abs=1e-5)


def test_leaving_one_out_asks_the_nearest_others() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 1.6, 1.7])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1)
    label = torch.tensor([0, 0, 0, 1, 1, 1])
    assert leave_one_out_accuracy(rows, label, k=2) == 1.0
    # the second one's neighbours are of another class; of two equally frequent classes the first one counts
    other = torch.tensor([0, 1, 0, 1, 1, 1])
    assert leave_one_out_accuracy(rows, other, k=2).item() == pytest.approx(5 / 6)
    # all others, where there are fewer than k: each side then has the majority of the other
    assert leave_one_out_accuracy(rows, label, k=20) == 0.0
