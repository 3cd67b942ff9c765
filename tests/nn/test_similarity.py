import math

import pytest
import torch

from pinakes.nn.similarity import linear_cka


def naive_hsic(one: list[list[float]], other: list[list[float]]) -> float:
    def centred(gram: list[list[float]]) -> list[list[float]]:
        n = len(gram)
        rows = [sum(row) / n for row in gram]
        columns = [sum(gram[i][j] for i in range(n)) / n for j in range(n)]
        whole = sum(rows) / n
        return [[gram[i][j] - rows[i] - columns[j] + whole for j in range(n)] for i in range(n)]

    k, m = centred(one), centred(other)
    return sum(k[i][j] * m[j][i] for i in range(len(k)) for j in range(len(k)))


def naive_cka(one: torch.Tensor, other: torch.Tensor) -> float:
    k, m = (
        [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        for rows in (one.flatten(1).tolist(), other.flatten(1).tolist())
    )
    return naive_hsic(k, m) / math.sqrt(naive_hsic(k, k) * naive_hsic(m, m))


def test_cka_is_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(7, 3, 2, 2, generator=generator, dtype=torch.float64) + 2
    other = torch.randn(7, 5, generator=generator, dtype=torch.float64) - 1
    assert linear_cka(one, other).item() == pytest.approx(naive_cka(one, other), abs=1e-12)


def test_cka_of_centred_features_is_the_norm_of_their_products() -> None:
    generator = torch.Generator().manual_seed(1)
    one, other = (torch.randn(9, width, generator=generator, dtype=torch.float64) for width in (4, 6))
    x, y = one - one.mean(0), other - other.mean(0)
    # Kornblith et al. 2019, section 3
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    torch.testing.assert_close(linear_cka(one, other), expected)


def test_cka_knows_no_rotation_scale_or_shift() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(9, 5, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64)).Q
    assert linear_cka(features, 1e-6 * features @ rotation + 3).item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_cka_of_small_and_large_features_is_finite(scale: float) -> None:
    features = (scale * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))).requires_grad_()
    found = linear_cka(features, torch.randn(4, 3, generator=torch.Generator().manual_seed(1)))
    found.backward()
    assert 0 < found.item() <= 1
    assert torch.isfinite(features.grad).all()  # type: ignore[arg-type]


def test_a_layer_that_says_the_same_of_all_is_like_no_other() -> None:
    constant = torch.ones(4, 3, requires_grad=True)
    found = linear_cka(constant, torch.randn(4, 3))
    found.backward()
    assert found.item() == 0
    assert torch.isfinite(constant.grad).all()  # type: ignore[arg-type]


def test_gradients_of_cka_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5, width, generator=generator, dtype=torch.float64) for width in (3, 4))
    assert torch.autograd.gradcheck(lambda x: linear_cka(x, other), one.requires_grad_())
