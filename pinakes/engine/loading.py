"""Batches in an order, and with random draws, that follow from the seed and the position alone."""

import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pinakes.data.base import Sample, SampleSet
from pinakes.engine.seeds import mix
from pinakes.errors import UserError

VALIDATION_STREAM = 2
"""Sets the draws of validation apart from those of training."""

Collate = Callable[[list[Sample]], dict[str, Any]]


class Position(NamedTuple):
    """Where training stands: `batch` batches of epoch `epoch` are done, both counted from 0."""

    epoch: int
    batch: int


class _Draw(NamedTuple):
    """The samples of one batch, and the seed of whatever the data set draws for them."""

    seed: int
    indices: list[int]


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Seeds the generators that a batch or a step draws from: Python, NumPy, torch on the CPU and on `device`.

    Far cheaper than `torch.manual_seed`, which visits every device.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - data sets and libraries still draw from the global generator
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class _SeededSamples(Dataset[Sample]):
    """A data set whose random draws follow from the batch, in whichever process it is loaded."""

    def __init__(self, samples: SampleSet) -> None:
        self.samples = samples

    def __getitems__(self, draw: _Draw) -> list[Sample]:
        reseed(draw.seed)
        fetch = getattr(self.samples, "__getitems__", None)
        return fetch(draw.indices) if fetch else [self.samples[index] for index in draw.indices]

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


class TrainingLoader:
    """The batches of one process, epoch after epoch, from any position.

    The order of an epoch is a permutation that follows from (seed, epoch). A global batch is the next `batch_size`
    samples for each of `processes` devices; each takes its own part. The last batch holds what is left, cut so that
    every device gets as many samples; a rest of one sample a device is left out of that epoch, because batch
    statistics of one sample do not exist. What the data set draws at random follows from (seed, epoch, batch, rank)
    and so neither from the number of workers nor from where training was resumed.

    Args:
        samples: The samples to train on.
        collate: Makes one batch of several samples.
        batch_size: Samples a batch, on each device.
        seed: Seed of order and draws.
        workers: Processes that load, kept from epoch to epoch; 0 loads in this one.
        rank: This process among `processes`.
        processes: Processes that train together.
        pin_memory: Whether batches are put into pinned memory, for faster copies to CUDA.

    Raises:
        UserError: If there are fewer samples than devices.
    """

    def __init__(
        self,
        samples: SampleSet,
        collate: Collate,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        processes: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if len(samples) < processes:
            raise UserError(
                f"devices: {len(samples)} training samples cannot be split over {processes} devices"
            )
        self.count = len(samples)
        self.batch_size, self.seed, self.rank, self.processes = batch_size, seed, rank, processes
        self.position = Position(0, 0)
        full, rest = divmod(self.count, batch_size * processes)
        self.rest = rest // processes
        if self.rest == 1 and full and batch_size > 1:
            self.rest = 0
        self.length = full + bool(self.rest)
        self._batches: DataLoader[Any] | None = DataLoader(
            _SeededSamples(samples),
            batch_sampler=_Draws(self),  # type: ignore[arg-type]  # a draw is a batch of indices and its seed
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_interrupts,
            multiprocessing_context=_start_method(workers),
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(seed),
        )

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self._batches is None:
            raise RuntimeError("the loader is closed")
        for batch in self._batches:
            epoch, done = self.position
            self.position = Position(epoch, done + 1) if done + 1 < self.length else Position(epoch + 1, 0)
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position, as Lightning keeps it in a checkpoint."""
        return self.position._asdict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Goes to the position of a checkpoint."""
        self.position = Position(**state)

    def close(self) -> None:
        """Ends the worker processes."""
        self._batches = None

    def draws(self) -> Iterator[_Draw]:
        """What is left of the current epoch, batch by batch."""
        epoch, first = self.position
        generator = torch.Generator().manual_seed(mix(self.seed, epoch))
        order = torch.randperm(self.count, generator=generator)
        for batch in range(first, self.length):
            size = self.rest if self.rest and batch == self.length - 1 else self.batch_size
            start = batch * self.batch_size * self.processes + self.rank * size
            yield _Draw(mix(self.seed, epoch, batch, self.rank), order[start : start + size].tolist())


class _Draws:
    """What torch's loader asks for the samples of each batch."""

    def __init__(self, loader: TrainingLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[_Draw]:
        return self.loader.draws()

    def __len__(self) -> int:
        return len(self.loader)


def validation_loader(
    samples: SampleSet,
    collate: Collate,
    *,
    batch_size: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
) -> DataLoader[Any]:
    """The samples in their own order; each process sees its share, padded so that all see as many batches."""
    count = len(samples)
    share = [index % count for index in range(rank, -(-count // processes) * processes, processes)]
    draws = [
        _Draw(mix(seed, start, rank, VALIDATION_STREAM), share[start : start + batch_size])
        for start in range(0, len(share), batch_size)
    ]
    return DataLoader(
        _SeededSamples(samples),
        batch_sampler=draws,  # type: ignore[arg-type]  # a draw is a batch of indices and its seed
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_interrupts,
        multiprocessing_context=_start_method(workers),
        generator=torch.Generator().manual_seed(seed),
    )


def _start_method(workers: int) -> str | None:
    """Forks where the system can, also in processes that were spawned themselves: their default, to spawn, would
    import everything anew in every worker."""
    return "fork" if workers and sys.platform == "linux" else None


def _ignore_interrupts(worker: int) -> None:
    """Lets the training process alone answer Ctrl-C, after the step in progress."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
