"""The greedy coreset against a plain farthest-point loop, and against anomalib's if it is installed."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Finding, memory_ratio, missing, race, save
from pinakes.papers.anomaly.patchcore import greedy_coreset, nearest_neighbours

NAME = "coreset"
ROWS, WIDTH, SHARE = 10_000, 256, 0.05
SIZE = int(SHARE * ROWS)
NEAR = 0.1
"""Share by which the radii of two covers may differ that were chosen after different random projections."""


def bench() -> list[Finding]:
    """Times the choice of 500 of 10,000 rows, on one thread, and measures its memory."""
    torch.set_num_threads(1)
    rows = patches()
    what = f"{SIZE} of {ROWS} rows, {WIDTH} wide"
    against = "a plain farthest-point loop"
    found = [
        race(
            NAME,
            f"{what}: time",
            ours=partial(ours, rows, WIDTH),
            peer=partial(plain, rows),
            against=against,
            check=expect_same_choice,
            rounds=5,
        ),
        memory_ratio(NAME, f"{what}: memory", ours=prepared_ours, peer=prepared_plain, against=against),
    ]
    why = missing("anomalib")
    if why:
        found.append(Finding(NAME, what, "anomalib's KCenterGreedy", skipped=why))
    else:
        found += [
            race(
                NAME,
                f"{what}, both projected: time",
                ours=partial(ours, rows, 128),
                peer=partial(anomalib, rows),
                against="anomalib's KCenterGreedy",
                check=partial(expect_same_cover, rows),
                rounds=3,
            ),
            memory_ratio(
                NAME,
                f"{what}, both projected: memory",
                ours=prepared_ours,
                peer=prepared_anomalib,
                against="anomalib's KCenterGreedy",
                arguments=(128,),
            ),
        ]
    save(NAME, found)
    return found


def patches() -> Tensor:
    """Rows like those of patches: in clumps, on few directions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, 32, generator=generator)[torch.randint(200, (ROWS,), generator=generator)]
    latent = centres + 0.3 * torch.randn(ROWS, 32, generator=generator)
    return latent @ torch.randn(32, WIDTH, generator=generator) / 32**0.5


def ours(rows: Tensor, projection: int) -> Tensor:
    """Our choice."""
    return greedy_coreset(rows, SIZE, projection=projection, generator=torch.Generator().manual_seed(0))


def plain(rows: Tensor) -> Tensor:
    """The same choice by updating every row's distance at every step."""
    chosen = [int(torch.randint(len(rows), (1,), generator=torch.Generator().manual_seed(0)))]
    nearest = torch.full((len(rows),), torch.inf)
    while len(chosen) < SIZE:
        nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)


def anomalib(rows: Tensor) -> Tensor:
    """The choice of anomalib, which has a random projection of its own."""
    from anomalib.models.components.sampling import KCenterGreedy

    return torch.as_tensor(KCenterGreedy(rows, SHARE).select_coreset_idxs())


def prepared_ours(projection: int = WIDTH) -> Callable[[], Tensor]:
    """Our choice, ready to be made."""
    torch.set_num_threads(1)
    return partial(ours, patches(), projection)


def prepared_plain() -> Callable[[], Tensor]:
    """The plain loop, ready to run."""
    torch.set_num_threads(1)
    return partial(plain, patches())


def prepared_anomalib(projection: int) -> Callable[[], Tensor]:
    """anomalib's choice, ready to be made."""
    torch.set_num_threads(1)
    return partial(anomalib, patches())


def expect_same_choice(ours: Tensor, plain: Tensor) -> None:
    """Rows are chosen in the same order, but where two are equally far to rounding."""
    same = (ours == plain).double().mean().item()
    assert same > 0.99 or set(ours.tolist()) == set(plain.tolist()), f"only {same:.1%} of the choices agree"


def expect_same_cover(rows: Tensor, ours: Tensor, peer: Tensor) -> None:
    """Both choose as many rows, none twice, and leave no row farther away than the other does."""
    assert len(ours) == len(set(ours.tolist())) == len(peer) == len(set(peer.tolist()))
    radii = [float(nearest_neighbours(rows, rows[chosen])[0].max()) for chosen in (ours, peer)]
    assert radii[0] <= (1 + NEAR) * radii[1], f"cover radius {radii[0]:.4g} against {radii[1]:.4g}"
