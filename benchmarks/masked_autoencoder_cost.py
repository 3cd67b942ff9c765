"""How the time of a step of the masked autoencoder grows with image size, depth and the share of visible patches.

Every cell is timed in turn with the reference, `MAE` as it is by default on images of 32 pixels, and the ratio is kept.
A step is forward, backward and AdamW, on one thread; time is the processor's.

Run with `python -m benchmarks masked_autoencoder_cost`; writes `results/bench/masked_autoencoder_cost.json`.
"""

import itertools
import time
from collections.abc import Callable

import torch

from benchmarks.harness import Clocks, Finding, compared, save
from pinakes.data.base import DataInfo
from pinakes.papers.self_supervised.mae import MAE

NAME = "masked_autoencoder_cost"
BATCH, STEPS, ROUNDS = 16, 2, 9
SIZES, DEPTHS, MASK_RATIOS = (32, 48, 64), (3, 6, 12), (0.5, 0.75, 0.9)

Cell = tuple[int, int, float]
"""Pixels a side, blocks of the encoder, and the share of patches that are hidden."""
REFERENCE: Cell = (32, 6, 0.75)


def steps(cell: Cell) -> Callable[[], None]:
    """Training steps on images of noise, ready to be taken; one has been, to fill the optimiser's state."""
    size, depth, mask_ratio = cell
    method = MAE(depth=depth, mask_ratio=mask_ratio, augmentation="none")
    method.prepare(DataInfo(3, (size, size))).train()
    optimiser = method.configure_optimizers()
    image = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))

    def run(count: int = STEPS) -> None:
        for _ in range(count):
            loss = method.loss(image)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    run(1)
    return run


def bench() -> list[Finding]:
    """Measures all cells, writes them and returns them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        findings = dict(measured())
    finally:
        torch.set_num_threads(threads)
    save(
        NAME,
        list(findings.values()),
        about=__doc__,
        reference=described(REFERENCE),
        cells=[
            {
                "size": size,
                "depth": depth,
                "mask_ratio": mask_ratio,
                "ratio": finding.ratio,
                "quartiles": [finding.low, finding.high],
            }
            for (size, depth, mask_ratio), finding in findings.items()
        ],
    )
    return list(findings.values())


def measured() -> list[tuple[Cell, Finding]]:
    """Each cell with its finding; all are timed in each round."""
    cells = list(itertools.product(SIZES, DEPTHS, MASK_RATIOS))
    runs, reference = {cell: steps(cell) for cell in cells}, steps(REFERENCE)
    times: dict[Cell, list[tuple[Clocks, Clocks]]] = {cell: [] for cell in cells}
    for _ in range(ROUNDS):
        for cell, run in runs.items():
            times[cell].append((finely_clocked(run), finely_clocked(reference)))
    return [
        (
            cell,
            compared(
                NAME,
                f"{STEPS} steps of {described(cell)}",
                described(REFERENCE),
                *zip(*times[cell], strict=True),
            ),
        )
        for cell in cells
    ]


def finely_clocked(run: Callable[[], None]) -> Clocks:
    """How long a call takes, by a finer clock than one that counts other processes too."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Clocks(time.perf_counter() - wall, time.process_time() - processor)


def described(cell: Cell) -> str:
    """A cell in words."""
    size, depth, mask_ratio = cell
    return f"{BATCH} images of {size} px, {depth} blocks, {mask_ratio:.0%} hidden"
