"""A small method and data set for the tests of the engine, importable by the processes they start."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.training import claim, train
from pinakes.method import Method

INFO = DataInfo(channels=1, size=(8, 8))


class Squares:
    """Images whose label is a linear function of their pixels; with noise, drawn anew at every look.

    Args:
        count: How many.
        noise: Whether torch, NumPy and Python each add some.
    """

    def __init__(self, count: int = 40, noise: bool = True) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.rand(count, 1, 8, 8, generator=generator)
        self.targets = self.images.flatten(1) @ torch.randn(64, generator=generator)
        self.noise = noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = self.images[index]
        if self.noise:
            image = image + 0.05 * torch.rand_like(image) + 0.05 * random.random()
            image = (image * np.random.uniform(0.9, 1.0)).clamp(0, 1)  # noqa: NPY002 - as data sets do
        return {"image": image.float(), "target": self.targets[index]}


class Toy(Method):
    """A small regression with dropout.

    Args:
        schedule: "step", "epoch" or "plateau".
        dropout: Share of features dropped.
        rate: Learning rate.
        bad_step: The step, from 1, whose loss is not finite; 0 for none.
        delay: Seconds that each step takes longer.
    """

    task_name = "anomaly"

    def __init__(
        self,
        schedule: str = "step",
        dropout: float = 0.3,
        rate: float = 0.01,
        bad_step: int = 0,
        delay: float = 0.0,
    ) -> None:
        super().__init__()
        self.schedule, self.dropout, self.rate = schedule, dropout, rate
        self.bad_step, self.delay = bad_step, delay

    def build(self, info: DataInfo) -> None:
        self.network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(32, 1)
        )
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        time.sleep(self.delay)
        self.seen += 1
        loss = functional.mse_loss(self.network(batch["image"])[:, 0], batch["target"])
        return loss * float("nan") if int(self.seen) == self.bad_step else loss

    def predict_step(self, batch: dict[str, Any], batch_idx: int = 0) -> dict[str, Any]:
        return {"score": self.network(batch["image"])[:, 0]}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.rate)
        if self.schedule == "step":
            scheduler: Any = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]
        if self.schedule == "epoch":
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=10.0
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Validated(Toy):
    """The same with a validation step."""

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.log("val_loss", functional.mse_loss(self.network(batch["image"])[:, 0], batch["target"]))


def toy_data(count: int = 40, noise: bool = True, val: bool = False) -> TaskData:
    """The data for the toy."""
    return TaskData("toy", "made", Squares(count, noise), val=Squares(8, False) if val else None, info=INFO)


def weights(method: Method) -> Tensor:
    """All weights in one row."""
    return torch.cat([p.detach().flatten().cpu() for p in method.parameters()])


def fitted(
    kind: type[Toy] = Toy, data: TaskData | None = None, options: dict[str, Any] | None = None, **plan: Any
) -> Toy:
    """A toy trained by the engine for three epochs of five steps, unless `plan` says otherwise."""
    method = kind(**(options or {})).prepare(INFO)
    settings = {"epochs": None if "steps" in plan else 3, "batch_size": 8, "device": "cpu"} | plan
    samples, settled = data or toy_data(val=kind is Validated), TrainingPlan(**settings)
    claim(method, samples, settled)
    train(method, samples, settled)
    return method


def checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run folder, the oldest first."""
    return sorted((out / "checkpoints").glob("*.ckpt"))


def same(one: Method, other: Method) -> bool:
    """Whether two methods have the same weights to the bit."""
    return torch.equal(weights(one), weights(other))
