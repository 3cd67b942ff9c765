"""What a fitted method is worth on a test set: metrics, speed and size."""

import gc
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pinakes.data.base import TaskData
from pinakes.engine.seeds import isolated
from pinakes.tasks.base import Observer, Task

if TYPE_CHECKING:
    from pinakes.method import Method

TIMED_IMAGES = 16
TIMED_SECONDS = 1.0
TIMED_RUNS = 5


@dataclass(frozen=True)
class Judged:
    """The figures of a fitted method.

    Args:
        metrics: The metrics of its task by name.
        groups: The same for parts of the test data.
        predict_milliseconds: How long one image takes to predict, in a batch.
        parameters: How many learnable numbers it has.
        state_bytes: What weights and buffers weigh.
        device: What it ran on.
    """

    metrics: dict[str, float]
    groups: dict[str, dict[str, float]]
    predict_milliseconds: float
    parameters: int
    state_bytes: int
    device: str


def judged(
    method: "Method", data: TaskData, *, seed: int = 0, workers: int = 0, observe: Observer | None = None
) -> Judged:
    """Judges a fitted method on the test part of data, and times it.

    Args:
        method: The method.
        data: What to judge on.
        seed: Seed of whatever the method draws.
        workers: Processes that load.
        observe: Called after each batch.
    """
    with isolated(seed):
        found = method.evaluate_fully(data, workers=workers, observe=observe)
        speed = milliseconds_an_image(method, method.task, data)
    return Judged(
        metrics={name: float(value) for name, value in found.metrics.items()},
        groups={group: {n: float(v) for n, v in values.items()} for group, values in found.groups.items()},
        predict_milliseconds=speed,
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        state_bytes=sum(value.nbytes for value in method.state_dict().values()),
        device=str(method.device),
    )


def milliseconds_an_image(
    method: "Method", task: Task, data: TaskData, *, images: int = TIMED_IMAGES, runs: int = TIMED_RUNS
) -> float:
    """How long a fitted method takes to predict one image, without loading it.

    The median of some runs after one to warm up, or the first run if that takes longer than a second.

    Args:
        method: The method.
        task: Its task.
        data: The images, those of the test part.
        images: How many are in a batch, if there are as many.
        runs: How many runs the median is of.
    """
    if data.test is None:
        return math.nan
    length = min(images, len(data.test))
    batch = task.collate([data.test[index] for index in range(length)])

    def run() -> float:
        started = time.perf_counter()
        method.predict(batch)
        wait_for(method)
        return time.perf_counter() - started

    first = run()
    taken = first if first > TIMED_SECONDS else statistics.median(run() for _ in range(runs))
    return 1000 * taken / length


def wait_for(method: "Method") -> None:
    """Waits until the device has done what the method asked of it."""
    if method.device.type == "cuda":
        torch.cuda.synchronize(method.device)


def give_back() -> None:
    """Frees what a method that is done with still holds: its cycles of objects, and on a GPU what torch keeps."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
