"""A loss over the samples of all processes is that of one process with the joint batch, and so are its gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pinakes.nn.contrastive import nt_xent_loss
from pinakes.nn.gathering import gathered, processes, rank, summed
from pinakes.papers.self_supervised.barlow_twins import barlow_twins_loss
from pinakes.papers.self_supervised.byol import byol_loss
from pinakes.papers.self_supervised.mocov3 import moco_v3_loss
from pinakes.papers.self_supervised.swav import swav_loss
from pinakes.papers.self_supervised.vicreg import vicreg_loss
from tests.two_processes import Batch, expect_one_step

SAMPLES, WIDTH = 12, 6


class Projected(nn.Module):
    """A loss of linear projections of two views.

    Args:
        loss: Of two batches of projections.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(WIDTH, 5)
        self.loss = loss

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(self.project(batch["one"]), self.project(batch["other"]))


def nt_xent() -> nn.Module:
    return Projected(nt_xent_loss)


def moco_v3() -> nn.Module:
    return Projected(lambda one, other: moco_v3_loss(one, other) + moco_v3_loss(other, one))


def byol() -> nn.Module:
    return Projected(byol_loss)


def barlow_twins() -> nn.Module:
    # a term of a process's own samples is added, as all of the loss is the same in both
    return Projected(lambda one, other: barlow_twins_loss(one, other) + one.square().mean())


def vicreg() -> nn.Module:
    return Projected(vicreg_loss)


def swav() -> nn.Module:
    def loss(one: Tensor, other: Tensor) -> Tensor:
        return swav_loss(
            torch.stack([functional.normalize(each, dim=1) for each in (one, other, one * other)])
        )

    return Projected(loss)


def views() -> Batch:
    one, other = torch.randn(2, SAMPLES, WIDTH, generator=torch.Generator().manual_seed(1))
    return {"one": one, "other": one + other}


def test_without_other_processes_rows_and_sums_are_ones_own() -> None:
    rows = torch.rand(3, 2, requires_grad=True)
    assert processes() == 1
    assert rank() == 0
    assert gathered(rows) is rows
    total = summed(rows)
    assert torch.equal(total, rows)
    assert not total.requires_grad
    total += 1
    assert not torch.equal(total, rows)


@pytest.mark.slow
def test_two_processes_take_the_step_of_one_with_the_joint_batch() -> None:
    expect_one_step(nt_xent, moco_v3, byol, barlow_twins, vicreg, swav, batch=views())
