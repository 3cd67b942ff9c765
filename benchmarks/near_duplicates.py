"""The search for near-duplicates against the whole matrix of similarities, and against faiss's flat index if it is
installed, from 10,000 to 100,000 embeddings.
"""

import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Finding, clocked, memory_ratio, missing, race, save
from pinakes.collections.duplicates import choose_threshold, find_groups
from pinakes.collections.similarity import whitened
from pinakes.lab.memory import peak_of

NAME = "near_duplicates"
WIDTH = 384
COUNTS = (10_000, 30_000, 100_000)
AGAINST_ALL = (10_000, 20_000)
AGAINST_FAISS = (10_000, 20_000)
THRESHOLDS = (0.75, 0.98)
"""About what is chosen from the data where copies are changed, and what copies keep that are hardly changed."""
SHARE = 50
"""One image in so many is a copy of another."""


def bench() -> list[Finding]:
    """Times the whole work at growing counts on one thread with its peak of memory, then the search against others."""
    torch.set_num_threads(1)
    found = [each for count in COUNTS for each in whole(count)]
    found += [
        each for count in AGAINST_ALL for each in against(count, "the whole matrix", matrix, prepared_matrix)
    ]
    why = missing("faiss").replace("peers", "faiss")
    for count in AGAINST_FAISS:
        if why:
            found.append(Finding(NAME, f"{count:,} rows", "faiss's flat index", skipped=why))
        else:
            found += against(count, "faiss's flat index", flat_index, prepared_flat_index)
    save(NAME, found)
    return found


def whole(count: int) -> list[Finding]:
    """Seconds and peak of memory of all the work on embeddings: whitening, choice of a threshold, groups."""
    what = f"{count:,} rows, {WIDTH} wide: whitening, threshold, groups"
    times = clocked(partial(groups_of, embeddings(count)))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        peak = pool.submit(peak_of_whole, count).result()
    return [
        Finding(NAME, f"{what}: time", figure=f"{times.processor:.3g} s"),
        Finding(NAME, f"{what}: memory on top of the rows", figure=f"{peak / 1e6:.4g} MB"),
    ]


def against(
    count: int, peer: str, run: Callable[[Tensor, float], Any], prepared: Callable[..., Callable[[], Any]]
) -> list[Finding]:
    """Time at both thresholds, and memory at the lower one, which takes more."""
    rows, found = whitened(embeddings(count)), []
    for threshold in THRESHOLDS:
        what = f"{count:,} rows, {WIDTH} wide, groups from {threshold}"
        found.append(
            race(
                NAME,
                f"{what}: time",
                ours=partial(find_groups, rows, threshold),
                peer=partial(run, rows, threshold),
                against=peer,
                check=expect_same_groups,
                rounds=3,
            )
        )
    found.append(
        memory_ratio(
            NAME,
            f"{count:,} rows, {WIDTH} wide, groups from {THRESHOLDS[0]}: memory",
            ours=prepared_ours,
            peer=prepared,
            against=peer,
            arguments=(count, THRESHOLDS[0]),
        )
    )
    return found


def embeddings(count: int) -> Tensor:
    """Rows like those of a collection: around many kinds, most of what varies in few directions; some are changed
    copies of others."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(200, 32, generator=generator)[torch.randint(200, (count,), generator=generator)]
    latent = kinds + 0.6 * torch.randn(count, 32, generator=generator)
    rows = latent @ torch.randn(32, WIDTH, generator=generator) / 32**0.5
    rows += 0.3 * torch.randn(count, WIDTH, generator=generator) + 2
    copies = count // SHARE
    change = torch.rand(copies, 1, generator=generator) * 0.2
    rows[-copies:] = rows[:copies] + change * torch.randn(copies, WIDTH, generator=generator)
    return rows


def groups_of(rows: Tensor) -> list[np.ndarray]:
    """All of our work."""
    unit = whitened(rows)
    return find_groups(unit, choose_threshold(unit).threshold)


def matrix(rows: Tensor, threshold: float) -> list[np.ndarray]:
    """The groups by all similarities at once."""
    unit = functional.normalize(rows, dim=1)
    first, second = (unit @ unit.mT >= threshold).nonzero(as_tuple=True)
    return grouped(first.numpy(), second.numpy(), len(rows))


def flat_index(rows: Tensor, threshold: float) -> list[np.ndarray]:
    """The groups by a range search of faiss, exact as well."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    unit = functional.normalize(rows, dim=1).numpy()
    index = faiss.IndexFlatIP(unit.shape[1])
    index.add(unit)
    ends, _, second = index.range_search(unit, threshold)
    first = np.repeat(np.arange(len(unit)), np.diff(ends.astype(np.int64)))
    return grouped(first, second, len(unit))


def grouped(first: np.ndarray, second: np.ndarray, count: int) -> list[np.ndarray]:
    """What pairs connect, of two or more."""
    links = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(count, count))
    _, label = connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return [each for each in members if len(each) > 1]


def peak_of_whole(count: int) -> int:
    """Bytes that all of our work takes at its peak on top of the rows; in a process of its own."""
    torch.set_num_threads(1)
    return peak_of(partial(groups_of, embeddings(count)))[0]


def prepared_ours(count: int, threshold: float) -> Callable[[], Any]:
    """Our search, ready to be made."""
    torch.set_num_threads(1)
    return partial(find_groups, whitened(embeddings(count)), threshold)


def prepared_matrix(count: int, threshold: float) -> Callable[[], Any]:
    """The whole matrix, ready to be made."""
    torch.set_num_threads(1)
    return partial(matrix, whitened(embeddings(count)), threshold)


def prepared_flat_index(count: int, threshold: float) -> Callable[[], Any]:
    """The range search, ready to be made."""
    torch.set_num_threads(1)
    importlib.import_module("faiss")  # what importing takes is not measured
    return partial(flat_index, whitened(embeddings(count)), threshold)


def expect_same_groups(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    """The same images are together, but for pairs at the threshold, to rounding."""
    a, b = ({tuple(sorted(group.tolist())) for group in groups} for groups in (ours, theirs))
    assert len(a ^ b) <= 0.002 * len(a | b), f"{len(a ^ b)} of {len(a | b)} groups differ"
