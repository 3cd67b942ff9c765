"""One training step of a batch in two processes, each with half of it, and in one with all of it.

A loss that is a mean over samples gives the same step both ways, as long as the same random numbers meet the same
samples. So each process draws the numbers of the whole batch and keeps those of its half: where a function of `DRAWN`
is asked for as many rows as a process has samples. What else is drawn is the same in both processes.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

PROCESSES = 2
DRAWN = (torch.rand, torch.randn)
PATIENCE = timedelta(seconds=60)

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """What a step gives.

    Args:
        loss: The loss.
        gradients: Of the parameters that are trained, by name.
    """

    loss: Tensor
    gradients: dict[str, Tensor]


class Losses(nn.Module):
    """The loss of a batch by a method, as the trainer calls it.

    Args:
        method: A prepared method, with a `training_step`.
    """

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> Tensor:
        loss: Tensor = self.method.training_step(dict(batch), 0)
        return loss


def expect_one_step(*makes: Callable[[], nn.Module], batch: Batch, tolerance: float = 1e-5) -> None:
    """Makes sure that two processes take the step that one takes on the joint batch.

    Args:
        *makes: Functions of modules. What one makes, the same every time, gives the loss when called with a batch.
            Several share the processes, which take seconds to start.
        batch: Tensors with the same even number of samples.
        tolerance: Of loss and gradients, absolute.

    Raises:
        AssertionError: If loss or gradients differ; or if nothing is learned from that, because both halves have the
            same loss or no gradient is far above the tolerance.
    """
    steps = steps_of_two(makes, batch)
    for make, halves in zip(makes, zip(*steps, strict=True), strict=True):
        joint = step_of_one(make, batch)
        losses = torch.stack([half.loss for half in halves])
        assert losses.unique().numel() == PROCESSES, f"{make.__name__}: both processes have the same loss"
        assert max(gradient.abs().max() for gradient in joint.gradients.values()) > 100 * tolerance
        expect_close(losses.mean(), joint.loss, tolerance, make.__name__)
        for half in halves:
            expect_close(half.gradients, joint.gradients, tolerance, make.__name__)


def expect_close(found: Any, expected: Any, tolerance: float, name: str) -> None:
    """Makes sure that tensors, or dicts of them, differ by no more than the tolerance; the error gives the name."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, msg=lambda text: f"{name}: {text}")


def step_of_one(make: Callable[[], nn.Module], batch: Batch) -> Step:
    """The step on the joint batch, in this process."""
    with torch.random.fork_rng():
        network = make()
        return _step(network, network, batch)


def steps_of_two(makes: Sequence[Callable[[], nn.Module]], batch: Batch) -> list[list[Step]]:
    """By process, the steps on its half of the batch; the two share their gradients as training does."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (makes, dict(batch), Path(folder)), nprocs=PROCESSES)
        found = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(PROCESSES)]
    return [[Step(**step) for step in steps] for steps in found]


def _work(rank: int, makes: Sequence[Callable[[], nn.Module]], batch: Batch, folder: Path) -> None:
    """What each process runs."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder / 'meeting'}", timeout=PATIENCE, world_size=PROCESSES, rank=rank
    )
    half = {name: value.chunk(PROCESSES)[rank] for name, value in batch.items()}
    steps = []
    for make in makes:
        network = make()
        parallel = DistributedDataParallel(network, find_unused_parameters=True)
        with _SharesOfJointDraws(rank, len(next(iter(half.values())))):
            steps.append(vars(_step(parallel, network, half)))
    torch.save(steps, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def _step(call: nn.Module, network: nn.Module, batch: Batch) -> Step:
    """The loss that `call` gives, and the gradients that `network` has then; numbers are drawn from one seed."""
    torch.manual_seed(0)
    loss: Tensor = call(batch)
    loss.backward()
    trained = {name: each.grad for name, each in network.named_parameters() if each.requires_grad}
    return Step(loss.detach(), {name: grad for name, grad in trained.items() if grad is not None})


class _SharesOfJointDraws(TorchFunctionMode):
    """Numbers are drawn for all processes, and each keeps those of its own samples.

    Args:
        rank: Of the process.
        samples: Of each process.
    """

    def __init__(self, rank: int, samples: int) -> None:
        super().__init__()
        self.rank, self.samples = rank, samples

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func not in DRAWN:
            return func(*args, **options)
        size = tuple(args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
        if not size or size[0] != self.samples:
            return func(*args, **options)
        joint = func((PROCESSES * self.samples, *size[1:]), **options)
        return joint.chunk(PROCESSES)[self.rank]
