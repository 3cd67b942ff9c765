"""A loss that two processes share is the loss of the joint batch, and so are its gradients."""

import pytest
import torch
from torch import nn

import pinakes
from pinakes.papers.self_supervised.mae import MAE
from tests.two_processes import Batch, Losses, expect_one_step

SIZE = 16


def masked_autoencoder() -> nn.Module:
    return Losses(
        MAE(depth=1, decoder_depth=1, augmentation="none").prepare(pinakes.DataInfo(3, (SIZE, SIZE)))
    )


def images() -> Batch:
    return {"image": torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))}


@pytest.mark.slow
def test_two_processes_paint_as_one_on_the_joint_batch() -> None:
    expect_one_step(masked_autoencoder, batch=images())
