"""What a prediction costs, against figures worked out by hand."""

import subprocess
import sys

import torch
from torch import nn

from pinakes.data.base import DataInfo
from pinakes.lab.cost import count_flops
from pinakes.method import Method
from pinakes.tasks.base import Batch, Prediction


class Convolution(Method):
    """One convolution."""

    task_name = "anomaly"

    def build(self, info: DataInfo) -> None:
        self.network = nn.Conv2d(3, 8, 3, padding=1)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": self.network(batch["image"]).mean((1, 2, 3))}


def test_flops_are_two_for_each_multiplication_and_addition() -> None:
    method = Convolution().prepare(DataInfo(3, (16, 24)))
    assert count_flops(method, {"image": torch.rand(5, 3, 16, 24)}) == 2 * 5 * 8 * 16 * 24 * 3 * 9


def test_peak_memory_is_that_of_the_call() -> None:
    code = (
        "import numpy as np; from pinakes.lab.memory import peak_of; "
        "print(*peak_of(lambda: np.ones(40_000_000 // 8).sum()))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    more, whole = map(int, printed.split())
    assert 35e6 < more < 80e6
    assert whole > more
