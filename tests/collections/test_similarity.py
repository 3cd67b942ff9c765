import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pinakes.collections import similarity
from pinakes.collections.similarity import nearest_similarity, similar_pairs, whitened


def clumped(count: int, width: int, seed: int = 0, spread: float = 0.3) -> Tensor:
    """Rows in clumps of about three, some of them equal."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count // 3 + 1, width, generator=generator)
    rows = centres[torch.randint(len(centres), (count,), generator=generator)]
    rows = rows + spread * torch.rand(count, 1, generator=generator) * torch.randn(
        count, width, generator=generator
    )
    rows[count // 2] = rows[0]
    return rows


def all_pairs(rows: Tensor, threshold: float) -> dict[tuple[int, int], float]:
    """Every pair by itself, in double precision."""
    unit = functional.normalize(rows.double(), dim=1)
    product = unit @ unit.mT
    first, second = (product.triu(1) >= threshold).nonzero(as_tuple=True)
    return {(int(a), int(b)): float(product[a, b]) for a, b in zip(first, second, strict=True) if a < b}


def expect_the_same(rows: Tensor, threshold: float) -> None:
    found = {
        (int(a), int(b)): float(value)
        for pairs in similar_pairs(rows, threshold)
        for a, b, value in zip(*pairs, strict=True)
    }
    loose, tight = all_pairs(rows, threshold - 1e-5), all_pairs(rows, threshold + 1e-5)
    assert set(tight) <= set(found) <= set(loose)
    assert found == pytest.approx({pair: loose[pair] for pair in found}, abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(3, 90),
    width=st.sampled_from([1, 2, 48, 100]),
    block=st.sampled_from([7, 16, 1024]),
    threshold=st.floats(0.1, 0.999),
    seed=st.integers(0, 1000),
)
def test_blocks_find_the_pairs_that_are_found_one_by_one(
    count: int, width: int, block: int, threshold: float, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(similarity.BLOCK, "cpu", block)
        expect_the_same(clumped(count, width, seed), threshold)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
def test_bounds_lose_no_pair(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(similarity.BLOCK, "cpu", 128)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(600, 20, generator=generator) @ torch.randn(20, 300, generator=generator)
    rows[500:] = rows[:100]
    rows += torch.rand(600, 1, generator=generator) * torch.randn(600, 300, generator=generator)
    bounds = similarity._bounds(functional.normalize(rows, dim=1), threshold)
    assert (bounds is not None) == (threshold > 0.5)
    expect_the_same(rows, threshold)


def test_blocks_that_are_mostly_alike_are_found_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(similarity.BLOCK, "cpu", 64)
    rows = clumped(300, 120, spread=0.1)
    rows[200:] = rows[200] + 0.01 * rows[200:]
    expect_the_same(rows, 0.95)


def test_rows_of_zeros_are_like_none() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert not list(similar_pairs(rows, 0.1))


def test_nearest_similarity_is_the_largest_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(similarity.BLOCK, "cpu", 32)
    rows, asked = clumped(150, 20), torch.tensor([0, 3, 75, 149])
    unit = functional.normalize(rows.double(), dim=1)
    expected = (unit @ unit.mT).fill_diagonal_(-1).amax(1)[asked]
    torch.testing.assert_close(nearest_similarity(rows, asked).double(), expected, rtol=0, atol=1e-5)


def test_whitened_rows_are_unit_vectors_that_point_everywhere_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([8.0, 4.0, 2.0, 1.0]).diag() @ torch.randn(4, 4, generator=generator)
    unit = whitened(torch.randn(5000, 4, generator=generator) @ spread + 5)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(5000))
    variance = torch.linalg.eigvalsh(4 * unit.mT @ unit / 5000)
    assert 0.5 < variance.min() < variance.max() < 1.5


@pytest.mark.parametrize("count", [1, 5, 40])
def test_images_that_are_all_the_same_stay_the_same_when_whitened(count: int) -> None:
    rows = torch.rand(1, 30, generator=torch.Generator().manual_seed(0)).expand(count, -1) + 1e-8
    unit = whitened(rows)
    torch.testing.assert_close(unit @ unit.mT, torch.ones(count, count))


def test_whitening_few_rows_leaves_copies_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 100, generator=generator)
    rows[1] = rows[0] + 0.02 * torch.randn(100, generator=generator)
    product = whitened(rows) @ whitened(rows).mT
    assert product[0, 1] > 0.98
    assert product.fill_diagonal_(0)[2:].abs().max() < 0.6
