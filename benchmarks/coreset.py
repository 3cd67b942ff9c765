"""The greedy coreset against a plain farthest-point loop, and against anomalib's if it is installed."""

import importlib
import io
import math
import statistics
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Clocks, Finding, clocked, compared, memory_ratio, missing, race, save
from pinakes.nn.memory import greedy_coreset, nearest_neighbours

NAME = "coreset"
WIDTH = 384
PLAIN = (10_000, 500)
AGAINST_ANOMALIB = ((20_000, 400), (100_000, 200))
"""Rows, and how many of them are chosen."""
SEEDS = 5


def bench() -> list[Finding]:
    """Times the choice on one thread, measures its memory, and compares how well it covers."""
    torch.set_num_threads(1)
    rows, size = patches(PLAIN[0]), PLAIN[1]
    what = f"{size} of {PLAIN[0]:,} rows, {WIDTH} wide, not projected"
    found = [
        race(
            NAME,
            f"{what}: time",
            ours=partial(ours, rows, size, WIDTH),
            peer=partial(plain, rows, size),
            against="a plain farthest-point loop",
            check=expect_same_choice,
            rounds=5,
        ),
        memory_ratio(
            NAME,
            f"{what}: memory",
            ours=prepared_ours,
            peer=prepared_plain,
            against="a plain farthest-point loop",
            arguments=(PLAIN[0], size, WIDTH),
        ),
    ]
    why = missing("anomalib")
    for count, chosen in AGAINST_ANOMALIB:
        if why:
            found.append(
                Finding(NAME, f"{chosen} of {count:,} rows", "anomalib's KCenterGreedy", skipped=why)
            )
        else:
            found += against_anomalib(count, chosen)
    save(NAME, found)
    return found


def against_anomalib(count: int, size: int) -> list[Finding]:
    """Time, memory and cover radius of both, each with its own random projection, in turn for several seeds."""
    rows = patches(count)
    what, against = f"{size} of {count:,} rows, {WIDTH} wide", "anomalib's KCenterGreedy"
    times: dict[str, list[Clocks]] = {"ours": [], "peer": []}
    radii: dict[str, list[float]] = {"ours": [], "peer": []}
    for seed in range(SEEDS):
        for side, choose in (("ours", ours), ("peer", anomalib)):
            chosen: list[Tensor] = []
            run = partial(choose, rows, size, seed=seed)
            times[side].append(clocked(lambda run=run, chosen=chosen: chosen.append(run())))  # type: ignore[misc]  # mypy cannot infer defaults
            assert len(set(chosen[0].tolist())) == size
            radii[side].append(float(nearest_neighbours(rows, rows[chosen[0]])[0].max()))
    ratios = sorted(a / b for a, b in zip(radii["ours"], radii["peer"], strict=True))
    means = [statistics.mean(radii[side]) for side in ("ours", "peer")]
    return [
        compared(NAME, f"{what}: time", against, times["ours"], times["peer"]),
        memory_ratio(
            NAME,
            f"{what}: memory",
            ours=prepared_ours,
            peer=prepared_anomalib,
            against=against,
            arguments=(count, size // 10),
            rounds=2,
        ),
        Finding(
            NAME,
            f"{what}: cover radius, mean of {SEEDS} seeds",
            against,
            ratio=round(means[0] / means[1], 4),
            low=round(ratios[0], 4),
            high=round(ratios[-1], 4),
            figure=f"{means[0]:.4g}",
        ),
    ]


def patches(count: int) -> Tensor:
    """Rows like those of patches: in clumps, on few directions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, 32, generator=generator)[torch.randint(200, (count,), generator=generator)]
    latent = centres + 0.3 * torch.randn(count, 32, generator=generator)
    return latent @ torch.randn(32, WIDTH, generator=generator) / math.sqrt(32)


def ours(rows: Tensor, size: int, projection: int = 256, seed: int = 0) -> Tensor:
    """Our choice."""
    return greedy_coreset(rows, size, projection=projection, generator=torch.Generator().manual_seed(seed))


def plain(rows: Tensor, size: int) -> Tensor:
    """The same choice by updating every row's distance at every step."""
    chosen = [int(torch.randint(len(rows), (1,), generator=torch.Generator().manual_seed(0)))]
    nearest = torch.full((len(rows),), torch.inf)
    while len(chosen) < size:
        nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def anomalib(rows: Tensor, size: int, seed: int = 0) -> Tensor:
    """The choice of anomalib, which has a random projection of its own, drawn from the global generators."""
    from anomalib.models.components.sampling import KCenterGreedy

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - anomalib draws from it
    with redirect_stderr(io.StringIO()):  # of its progress bar
        return torch.as_tensor(KCenterGreedy(rows, (size + 0.5) / len(rows)).select_coreset_idxs())


def prepared_ours(count: int, size: int, projection: int = 256) -> Callable[[], Tensor]:
    """Our choice, ready to be made."""
    torch.set_num_threads(1)
    return partial(ours, patches(count), size, projection)


def prepared_plain(count: int, size: int, projection: int) -> Callable[[], Tensor]:
    """The plain loop, ready to run."""
    torch.set_num_threads(1)
    return partial(plain, patches(count), size)


def prepared_anomalib(count: int, size: int) -> Callable[[], Tensor]:
    """anomalib's choice, ready to be made."""
    torch.set_num_threads(1)
    importlib.import_module("anomalib.models.components.sampling")  # what importing takes is not measured
    return partial(anomalib, patches(count), size)


def expect_same_choice(ours: Tensor, plain: Tensor) -> None:
    """Rows are chosen in the same order, but where two are equally far to rounding."""
    same = (ours == plain).double().mean().item()
    assert same > 0.99 or set(ours.tolist()) == set(plain.tolist()), f"only {same:.1%} of the choices agree"
