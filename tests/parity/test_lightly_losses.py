"""Losses of two views against those of lightly, on the same random inputs: the values, and the gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pinakes.nn.assignment import sinkhorn_knopp
from pinakes.nn.contrastive import info_nce_loss, nt_xent_loss
from pinakes.papers.self_supervised.barlow_twins import barlow_twins_loss
from pinakes.papers.self_supervised.byol import byol_loss
from pinakes.papers.self_supervised.swav import swav_loss
from pinakes.papers.self_supervised.vicreg import vicreg_loss

TOLERANCE = 1e-5
BATCH, WIDTH = 12, 7


def lightly_losses() -> Any:
    return pytest.importorskip("lightly.loss")


def random_views(count: int = 2, width: int = WIDTH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(BATCH, width, generator=generator)
    return [base + torch.randn(BATCH, width, generator=generator) for _ in range(count)]


def expect_equal(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Both losses, and their gradients for all inputs that either gives any."""
    found = []
    for loss in (ours, theirs):
        given = [each.clone().requires_grad_() for each in inputs]
        value = loss(*given)
        value.sum().backward()
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in given]
        found.append([value.detach().squeeze(), *gradients])
    assert found[0][1].abs().max() > 100 * TOLERANCE
    torch.testing.assert_close(found[0], found[1], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent(temperature: float) -> None:
    theirs = lightly_losses().NTXentLoss(temperature=temperature)
    expect_equal(lambda one, other: nt_xent_loss(one, other, temperature), theirs, random_views())


def test_info_nce_is_their_loss_with_all_other_keys_in_the_memory() -> None:
    losses = lightly_losses()
    temperature = 0.2
    query, key = random_views()
    key = functional.normalize(key, dim=1)

    def theirs(query: Tensor, key: Tensor) -> Tensor:
        each = []
        for place in range(BATCH):
            loss = losses.NTXentLoss(temperature, memory_bank_size=(BATCH - 1, WIDTH))
            loss.memory_bank.bank.copy_(torch.cat([key[:place], key[place + 1 :]]).detach())
            each.append(loss(query[place : place + 1], key[place : place + 1].detach()))
        return torch.stack(each).mean()

    expect_equal(lambda query, key: info_nce_loss(query, key.detach(), temperature), theirs, [query, key])


def test_byol() -> None:
    cosine = lightly_losses().NegativeCosineSimilarity()
    # theirs leaves it to the caller to stop gradients, and is no squared distance
    expect_equal(byol_loss, lambda one, other: 2 + 2 * cosine(one, other.detach()), random_views())


@pytest.mark.parametrize("trade_off", [0.005, 0.3])
def test_barlow_twins(trade_off: float) -> None:
    theirs = lightly_losses().BarlowTwinsLoss(lambda_param=trade_off)
    expect_equal(lambda one, other: barlow_twins_loss(one, other, trade_off), theirs, random_views())


@pytest.mark.parametrize(("size", "weights"), [(0.5, (25.0, 25.0, 1.0)), (2.0, (3.0, 5.0, 7.0))])
def test_vicreg(size: float, weights: tuple[float, float, float]) -> None:
    theirs = lightly_losses().VICRegLoss(*weights)
    inputs = [size * each for each in random_views()]
    expect_equal(lambda one, other: vicreg_loss(one, other, *weights), theirs, inputs)


@pytest.mark.parametrize("small", [0, 3])
def test_swav(small: int) -> None:
    theirs = lightly_losses().SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
    inputs = [functional.normalize(each, dim=1) for each in random_views(2 + small)]
    expect_equal(
        lambda *scores: swav_loss(torch.stack(scores), 2, 0.1, 0.05, 3),
        lambda *scores: theirs(list(scores[:2]), list(scores[2:])),
        inputs,
    )


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_balanced_assignments(iterations: int) -> None:
    theirs = pytest.importorskip("lightly.loss.swav_loss").sinkhorn
    (scores,) = random_views(1)
    scores = functional.normalize(scores, dim=1)
    torch.testing.assert_close(
        sinkhorn_knopp(scores / 0.05, iterations),
        theirs(scores, iterations, epsilon=0.05),
        rtol=0,
        atol=TOLERANCE,
    )
