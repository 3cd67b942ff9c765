"""What the training engine costs over a bare PyTorch loop with the same model and loader.

Run with `python benchmarks/engine_overhead.py`; writes `results/bench/engine_overhead.json`.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import Finding
from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.engine.loading import TrainingLoader
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.trainer import driver_asked_once
from pinakes.engine.training import train
from pinakes.method import Method

RESULT = Path(__file__).parents[1] / "results" / "bench" / "engine_overhead.json"
BATCH = 64
STEPS = 80
ROUNDS = 11


class Images:
    """Images in memory, so that the loader costs little and the engine shows."""

    def __init__(self, count: int) -> None:
        self.images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.images[index]}


class Reconstruction(Method):
    """A small convolutional autoencoder."""

    task_name = "anomaly"

    def build(self, info: DataInfo) -> None:
        """Makes the network."""
        self.network = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 2, stride=2),
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The squared error."""
        return functional.mse_loss(self.network(batch["image"]), batch["image"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def bare_loop(method: Reconstruction, data: TaskData, epochs: int) -> None:
    """Trains as anyone would by hand."""
    loader = TrainingLoader(data.train, method.task.collate, batch_size=BATCH, seed=0)
    optimizer = method.configure_optimizers()
    method.train()
    for _ in range(epochs):
        for batch_idx, batch in enumerate(loader):
            optimizer.zero_grad()
            method.training_step(batch, batch_idx).backward()
            optimizer.step()


class Clocks(NamedTuple):
    """Seconds on the clock on the wall, and seconds that this process computed."""

    wall: float
    processor: float


def clocked(run: Callable[[], None]) -> Clocks:
    """How long a call takes. The processor's clock leaves out what other programs on the machine do."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Clocks(time.perf_counter() - wall, time.process_time() - processor)


def ratio(bare: list[float], engine: list[float]) -> dict[str, Any]:
    """The ratio of each pair, its median and quartiles, and the ratio of the fastest of each."""
    ratios = [b / a for a, b in zip(bare, engine, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return {
        "median": round(statistics.median(ratios), 4),
        "quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "fastest": round(min(engine) / min(bare), 4),
        "pairs": [round(each, 4) for each in ratios],
    }


def main(steps: int = STEPS, rounds: int = ROUNDS) -> dict[str, Any]:
    """Times the bare loop and the engine in turn, and writes the ratio of their times.

    Args:
        steps: Steps of each timed run.
        rounds: Pairs of runs; one more warms up.
    """
    torch.set_num_threads(1)
    epochs = 2
    info = DataInfo(channels=3, size=(64, 64))
    data = TaskData("images in memory", "made", Images(BATCH * steps // epochs), info=info)
    plan = TrainingPlan(epochs=epochs, batch_size=BATCH, device="cpu")
    bare: list[Clocks] = []
    engine: list[Clocks] = []
    for _ in range(rounds + 1):
        method = Reconstruction().prepare(info)
        with driver_asked_once():
            bare.append(clocked(lambda method=method: bare_loop(method, data, epochs)))
        method = Reconstruction().prepare(info)
        engine.append(clocked(lambda method=method: train(method, data, plan)))
    result: dict[str, Any] = {
        "what": "time of the engine divided by time of a bare loop, batch 64 of 64x64, start-up included",
        "processor": ratio([each.processor for each in bare[1:]], [each.processor for each in engine[1:]]),
        "wall": ratio([each.wall for each in bare[1:]], [each.wall for each in engine[1:]]),
        "milliseconds_a_step_bare": round(1000 * statistics.median(b.processor for b in bare[1:]) / steps, 2),
        "steps": steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return result


def bench() -> list[Finding]:
    """Measures, and returns the ratio of the processor's time."""
    found = main()["processor"]
    low, high = found["quartiles"]
    what = "training, batch 64 of 64x64, start-up included"
    return [Finding("engine_overhead", what, "a bare PyTorch loop", found["median"], low, high)]


if __name__ == "__main__":
    print(json.dumps(main(), indent=2))
