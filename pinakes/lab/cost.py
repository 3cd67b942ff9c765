"""What a method costs to use: parameters, FLOPs, latency and memory of a prediction."""

import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import pinakes
from pinakes import tasks
from pinakes.catalogue import find
from pinakes.data import load_data
from pinakes.data.base import SampleSet
from pinakes.engine.plan import torch_device
from pinakes.errors import UserError
from pinakes.lab import notation
from pinakes.lab.duel import device_name
from pinakes.lab.memory import peak_of
from pinakes.method import Method
from pinakes.tasks.base import Batch, Task

RUNS = 9
LONG_SECONDS = 2.0
"""A prediction that takes longer is timed once."""


@dataclass(frozen=True)
class Cost:
    """What a method costs.

    Args:
        slug: The method.
        data: The spec of the data on which it was fitted, for a step or two.
        size: Height and width of an image in pixels.
        batch_size: Images at a time.
        device: What it ran on.
        parameters: Learnable numbers.
        trainable: Those of them that its training changes.
        state_bytes: What weights and buffers weigh.
        flops: Floating-point operations of a prediction: two for each multiplication and addition in a matrix product
            or convolution, nothing for what else it does.
        latency_ms: Milliseconds of a prediction, the median of nine after one to warm up.
        peak_bytes: Memory that a prediction needs at its peak on top of the loaded method: of the process on the
            CPU, of the allocator on CUDA.
        process_bytes: Memory of the whole process at that peak, libraries and method included.
    """

    slug: str
    data: str
    size: tuple[int, int]
    batch_size: int
    device: str
    parameters: int
    trainable: int
    state_bytes: int
    flops: int
    latency_ms: float
    peak_bytes: int
    process_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str, str]]:
        """What, how much and how it was measured, for people."""
        height, width = self.size
        batch = f"{self.batch_size} image{'s' * (self.batch_size > 1)} of {height}x{width}"
        return [
            ("parameters", notation.count(self.parameters), "learnable numbers"),
            ("trainable", notation.count(self.trainable), "those that its training changes"),
            ("state", notation.size(self.state_bytes), "weights and buffers"),
            ("FLOPs", notation.count(self.flops), f"predicting {batch}: matrix products and convolutions"),
            (
                "latency",
                f"{notation.milliseconds(self.latency_ms)} ms",
                f"predicting {batch}, median of {RUNS}",
            ),
            (
                "peak memory",
                notation.size(self.peak_bytes),
                f"predicting {batch}, on top of the loaded method",
            ),
            (
                "process",
                notation.size(self.process_bytes),
                "the whole process at that peak, libraries included",
            ),
        ]


def measure_cost(
    slug: str,
    *,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 1,
    device: str = "auto",
) -> Cost:
    """Fits a method for a step on its task's example data and measures a prediction.

    Memory is measured in a process of its own, which loads the fitted method and predicts once.

    Args:
        slug: The method.
        size: Side, or height and width, of the images in pixels; by default that of the example data.
        batch_size: Images at a time.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        UserError: If a name, size or device cannot be used.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size: expected a whole number of 1 or more, got {batch_size!r}")
    paper = find(slug)
    task = tasks.get(paper.task)
    data = load_data(paper.load().example_data or task.example_data, task=task, size=size)
    method = pinakes.create(slug).fit(data, steps=1, device=device)
    batch = _batch(task, data.test if data.test is not None else data.train, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        method.save(folder)
        arguments = (folder, data.spec, batch_size, str(method.device))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            peak, whole = pool.submit(prediction_memory, *arguments).result()
    return Cost(
        slug=slug,
        data=data.spec,
        size=data.size,
        batch_size=batch_size,
        device=device_name(torch_device(device)),
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        trainable=sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad),
        state_bytes=sum(value.nbytes for value in method.state_dict().values()),
        flops=count_flops(method, batch),
        latency_ms=1000 * _seconds(method, batch),
        peak_bytes=peak,
        process_bytes=whole,
    )


def count_flops(method: Method, batch: Batch) -> int:
    """Floating-point operations of a prediction, as torch counts them: those of matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        method.predict(batch)
    return counter.get_total_flops()


def prediction_memory(folder: str, spec: str, batch_size: int, device: str) -> tuple[int, int]:
    """Bytes that a prediction needs at its peak on top of what is there before, and the process's bytes at that peak.

    To be called in a process of its own.

    Args:
        folder: The run folder of the fitted method.
        spec: The data of which a batch is made.
        batch_size: Images in the batch.
        device: Where to predict.
    """
    method = pinakes.load(folder, device=device)
    data = load_data(spec, task=method.task)
    batch = _batch(method.task, data.test if data.test is not None else data.train, batch_size)
    if method.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(method.device)
        before = torch.cuda.memory_allocated(method.device)
        method.predict(batch)
        peak = torch.cuda.max_memory_allocated(method.device)
        return peak - before, peak
    return peak_of(lambda: method.predict(batch))


def _batch(task: Task, samples: SampleSet, batch_size: int) -> Batch:
    """A batch of samples, from the first again where there are too few."""
    return task.collate([samples[index % len(samples)] for index in range(batch_size)])


def _seconds(method: Method, batch: Batch) -> float:
    on_device = {
        name: value.to(method.device) if isinstance(value, Tensor) else value for name, value in batch.items()
    }

    def once() -> float:
        started = time.perf_counter()
        method.predict(on_device)
        if method.device.type == "cuda":
            torch.cuda.synchronize(method.device)
        return time.perf_counter() - started

    first = once()
    return first if first > LONG_SECONDS else statistics.median(once() for _ in range(RUNS))
