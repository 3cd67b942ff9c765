"""Training steps and samplers of diffusion against those of diffusers, with the same network; and what they cost.

Against diffusers, both sides ask one network object the same number of times for the same batch. A training step is
`DDPM.loss` on our side, and on the other the loop of diffusers' example for images without a condition: noise, numbers
of steps, `DDPMScheduler.add_noise`, the network, the mean squared error. Both go backward and take a step of Adam; no
average of weights is kept. Samples are made by `DDPM.path`, and by the loop of diffusers' pipelines with
`DDIMScheduler` and `DDPMScheduler`. Before anything is timed it is made certain that loss and gradients are the same,
and that the same noise leads to the same images.

The table holds the cost of a training step by the size of images, and of a sample by size and number of steps. Every
cell is timed in turn with a reference cell, and the ratio is kept; images per second are of this machine.

All on one thread; time is the processor's. Run with `python -m benchmarks diffusion_training`; writes
`results/bench/diffusion_training.json`.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.harness import Clocks, Finding, compared, missing, race, save
from benchmarks.masked_autoencoder_cost import finely_clocked
from pinakes.data.base import DataInfo
from pinakes.papers.diffusion.ddpm import DDPM

NAME = "diffusion_training"
OPTIONS: dict[str, Any] = {"n_channels": 16, "ch_mults": (1, 2), "dropout": 0.0, "classes": False}
SIDE, CHANNELS, T = 32, 3, 1000
BATCH, STEPS, ROUNDS = 16, 4, 12
"""Images of a training step, steps in one timing, and pairs of timings."""
SAMPLED, QUESTIONS, SAMPLING_ROUNDS = 4, 20, 9
"""Images that are made together, and how often the network is asked for them."""
SIZES, SAMPLING_STEPS, CELL_ROUNDS = (16, 32, 64), (10, 25, 50), 5
LIMIT = 1.03
"""The largest share of diffusers' time: the network takes nearly all of it, so both are alike but for scatter."""
DIFFUSERS = "diffusers"


class Cell(NamedTuple):
    """A row of the table: training where no number of sampling steps is named."""

    size: int
    sampling_steps: int | None

    def described(self) -> str:
        """In words."""
        if self.sampling_steps is None:
            return f"a training step, {BATCH} images of {self.size} px"
        return f"{SAMPLED} samples of {self.size} px in {self.sampling_steps} steps"

    @property
    def images(self) -> int:
        """Images in one timing."""
        return SAMPLED if self.sampling_steps else BATCH


REFERENCES = {"training": Cell(32, None), "sampling": Cell(32, 25)}


def ours(size: int, sampling_steps: int, sampler: Any = "ddim") -> DDPM:
    """The method, not trained, with weights that follow from a seed."""
    method = DDPM(T=T, sampling_steps=sampling_steps, sampler=sampler, **OPTIONS)
    return method.prepare(DataInfo(CHANNELS, (size, size)), seed=0)


def noise(count: int, size: int) -> Tensor:
    """Images of noise."""
    return torch.randn(count, CHANNELS, size, size, generator=torch.Generator().manual_seed(0))


def generators() -> list[torch.Generator]:
    """One of noise for each image."""
    return [torch.Generator().manual_seed(number) for number in range(SAMPLED)]


def scheduler_of(sampler: str) -> Any:
    """The scheduler of diffusers with the noise of ours, going through the same steps."""
    import diffusers

    kind = diffusers.DDIMScheduler if sampler == "ddim" else diffusers.DDPMScheduler
    return kind(T, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", timestep_spacing="trailing")


def steps(network: nn.Module, loss: Callable[[Tensor], Tensor], count: int, size: int) -> Callable[[], float]:
    """Training steps, ready to be taken."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    clean = noise(BATCH, size).clamp(-1, 1)

    def run() -> float:
        for _ in range(count):
            value = loss(clean)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        return value.item()

    return run


def loss_of_diffusers(network: nn.Module, scheduler: Any, clean: Tensor) -> Tensor:
    """The loss as in the example."""
    new = torch.randn(clean.shape, device=clean.device)
    timesteps = torch.randint(0, T, (len(clean),), device=clean.device)
    return loss_of(network, scheduler, clean, new, timesteps)


def loss_of(network: nn.Module, scheduler: Any, clean: Tensor, new: Tensor, timesteps: Tensor) -> Tensor:
    """The loss for this noise, with steps that are numbered from 0."""
    noised = scheduler.add_noise(clean, new, timesteps)
    return functional.mse_loss(network(noised, timesteps + 1), new)


@torch.no_grad()
def sampled(network: nn.Module, scheduler: Any, start: Tensor) -> Tensor:
    """Samples as in the pipelines."""
    scheduler.set_timesteps(QUESTIONS)
    found, given = start, generators()
    # as ours, which follows the noise that the estimate leaves once it is cut to [-1, 1]
    options = {"use_clipped_model_output": True} if "DDIM" in type(scheduler).__name__ else {}
    for t in scheduler.timesteps:
        told = network(found, (t + 1).expand(len(found)))
        found = scheduler.step(told, t, found, generator=given, **options).prev_sample
    return found


def samples(method: DDPM, start: Tensor) -> Callable[[], Tensor]:
    """Samples of ours, ready to be made."""

    @torch.no_grad()
    def run() -> Tensor:
        return method.path(start, None, generators())[-1]

    return run


def expect_same_gradients() -> None:
    """With the same noise at the same steps, ours and that of diffusers have one loss and one gradient.

    Raises:
        AssertionError: If they differ.
    """
    method, clean = ours(SIDE, QUESTIONS).train(), noise(BATCH, SIDE).clamp(-1, 1)
    torch.manual_seed(0)
    loss = method.loss(clean, None)
    # drawn in the order of ours
    torch.manual_seed(0)
    t = torch.randint(1, T + 1, (BATCH,))
    expected = loss_of(method.network, scheduler_of("ddpm"), clean, torch.randn_like(clean), t - 1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    weights = list(method.network.parameters())
    for mine, theirs in zip(*(torch.autograd.grad(each, weights) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def expect_losses(mine: float, theirs: float) -> None:
    """Both sides learn; that they compute the same, `expect_same_gradients` checks."""
    assert math.isfinite(mine)
    assert math.isfinite(theirs)


def expect_same_images(mine: Tensor, theirs: Tensor) -> None:
    """The same noise leads to the same images."""
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def against_diffusers() -> list[Finding]:
    """Time of ours against that of diffusers, once it is certain that both compute the same."""
    expect_same_gradients()
    method, peer = ours(SIDE, QUESTIONS).train(), scheduler_of("ddpm")
    findings = [
        race(
            NAME,
            f"{STEPS} training steps, {BATCH} images of {SIDE} px",
            ours=steps(method.network, lambda clean: method.loss(clean, None), STEPS, SIDE),
            peer=steps(
                method.network, lambda clean: loss_of_diffusers(method.network, peer, clean), STEPS, SIDE
            ),
            against=DIFFUSERS,
            check=expect_losses,
            rounds=ROUNDS,
        )
    ]
    start = noise(SAMPLED, SIDE)
    for sampler in ("ddim", "ddpm"):
        method, peer = ours(SIDE, QUESTIONS, sampler).eval(), scheduler_of(sampler)
        findings.append(
            race(
                NAME,
                f"{SAMPLED} samples of {SIDE} px, {QUESTIONS} steps of {sampler.upper()}",
                ours=samples(method, start),
                peer=partial(sampled, method.averaged, peer, start),
                against=DIFFUSERS,
                check=expect_same_images,
                rounds=SAMPLING_ROUNDS,
            )
        )
    return findings


def timed(cell: Cell) -> Callable[[], Any]:
    """What a cell times, ready to be run; it has been once."""
    if cell.sampling_steps is None:
        method = ours(cell.size, QUESTIONS).train()
        run: Callable[[], Any] = steps(method.network, lambda clean: method.loss(clean, None), 1, cell.size)
    else:
        run = samples(ours(cell.size, cell.sampling_steps).eval(), noise(SAMPLED, cell.size))
    run()
    return run


def table() -> dict[Cell, tuple[Finding, float]]:
    """Each cell with its finding and images per second; all are timed in each round."""
    cells = [Cell(*each) for each in itertools.product(SIZES, (None, *SAMPLING_STEPS))]
    runs = {cell: timed(cell) for cell in {*cells, *REFERENCES.values()}}
    times: Mapping[Cell, list[tuple[Clocks, Clocks]]] = {cell: [] for cell in cells}
    for _ in range(CELL_ROUNDS):
        for cell in cells:
            times[cell].append((finely_clocked(runs[cell]), finely_clocked(runs[_reference(cell)])))
    found = {}
    for cell in cells:
        finding = compared(
            NAME, cell.described(), _reference(cell).described(), *zip(*times[cell], strict=True)
        )
        seconds = statistics.median(mine.processor for mine, _ in times[cell])
        found[cell] = (finding, cell.images / max(seconds, 1e-6))
    return found


def _reference(cell: Cell) -> Cell:
    return REFERENCES["training" if cell.sampling_steps is None else "sampling"]


def bench() -> list[Finding]:
    """Measures, writes the result and returns it.

    Raises:
        AssertionError: If ours takes longer than the limit allows, or diffusers computes something else. The lower
            quartile counts, as the two differ by less than the rounds scatter.
    """
    why = missing("diffusers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            races = (
                [Finding(NAME, "training and sampling", DIFFUSERS, skipped=why)]
                if why
                else against_diffusers()
            )
            cells = table()
    finally:
        torch.set_num_threads(threads)
    findings = races + [finding for finding, _ in cells.values()]
    save(
        NAME,
        findings,
        about=__doc__,
        paper="ddpm",
        limit=LIMIT,
        references={name: cell.described() for name, cell in REFERENCES.items()},
        cells=[
            {
                "size": cell.size,
                "sampling_steps": cell.sampling_steps,
                "ratio": finding.ratio,
                "quartiles": [finding.low, finding.high],
                "images_per_second": round(rate, 2),
            }
            for cell, (finding, rate) in cells.items()
        ],
    )
    for finding in races:
        assert finding.low is None or finding.low <= LIMIT, f"{finding.what}: {finding.ratio} of {DIFFUSERS}"
    return findings
