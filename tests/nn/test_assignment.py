import pytest
import torch
from torch import Tensor

from pinakes.nn.assignment import sinkhorn_knopp


def scaled_in_turn(logits: Tensor, iterations: int) -> Tensor:
    """Rows and columns of exp(logits) scaled in turn, as written in the papers, in double precision."""
    shares = logits.double().exp().T
    shares = shares / shares.sum()
    prototypes, samples = shares.shape
    for _ in range(iterations):
        shares = shares / shares.sum(1, keepdim=True) / prototypes
        shares = shares / shares.sum(0, keepdim=True) / samples
    return (shares * samples).T


@pytest.mark.parametrize("iterations", [1, 3, 20])
def test_assignments_are_those_of_scaling_in_turn(iterations: int) -> None:
    logits = 5 * torch.randn(24, 7, generator=torch.Generator().manual_seed(0))
    found = sinkhorn_knopp(logits, iterations)
    torch.testing.assert_close(found, scaled_in_turn(logits, iterations).float(), atol=1e-6, rtol=0)


def test_many_iterations_balance_prototypes_exactly_and_keep_what_the_logits_say() -> None:
    logits = 3 * torch.randn(30, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sinkhorn_knopp(logits, 2000)
    torch.testing.assert_close(found.sum(1), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(found.sum(0), torch.full((6,), 5.0, dtype=torch.float64), atol=1e-9, rtol=0)
    # only rows and columns were scaled, so that log(found) - logits is a sum of one number a row and one a column
    change = found.log() - logits
    interaction = change - change.mean(0) - change.mean(1, keepdim=True) + change.mean()
    assert interaction.abs().max() < 1e-9


def test_large_logits_do_not_overflow() -> None:
    logits = 1e4 * torch.randn(16, 5, generator=torch.Generator().manual_seed(2))
    found = sinkhorn_knopp(logits)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.sum(1), torch.ones(16))


def test_assignments_have_no_gradient_and_keep_the_type() -> None:
    logits = torch.randn(8, 4, dtype=torch.float16, requires_grad=True)
    found = sinkhorn_knopp(logits)
    assert not found.requires_grad
    assert found.dtype == torch.float16


def test_no_samples_give_no_assignments() -> None:
    assert sinkhorn_knopp(torch.zeros(0, 4)).shape == (0, 4)
