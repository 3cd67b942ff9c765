"""The search for nearest neighbours among embeddings against faiss's exact index, up to 100,000; and what faiss's
inverted index would need for 10 million, extrapolated from what it needs for up to 400,000.

The inverted index is the one to take where exact search is too slow: it looks at the embeddings of some cells only. Its
costs are fitted as powers of the number of embeddings, and followed to 10 million; a cost whose exponent the fit leaves
open says so by the range of its extrapolations from each pair of neighbouring sizes.

Run with `python -m benchmarks nearest_neighbours`; writes `results/bench/nearest_neighbours.json`.
"""

import importlib
import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.harness import Finding, clocked, memory_ratio, missing, race, save
from benchmarks.near_duplicates import WIDTH, embeddings
from pinakes.nn.probes import nearest

NAME = "nearest_neighbours"
QUERIES, NEIGHBOURS = 1000, 20
COUNTS = (30_000, 100_000)
INVERTED = (50_000, 100_000, 200_000, 400_000)
MANY = 10_000_000
RECALL = 0.9
"""The share of the true neighbours that the inverted index is to find; as few cells are looked at as serve."""


def bench() -> list[Finding]:
    """Times exact search, then fits the costs of the inverted index."""
    torch.set_num_threads(1)
    why = missing("faiss").replace("peers", "faiss")
    found = []
    for count in COUNTS:
        what = f"{QUERIES:,} queries among {count:,} rows, {WIDTH} wide"
        if why:
            found.append(Finding(NAME, what, "faiss's flat index", skipped=why))
            continue
        query, rows = asked(count)
        found.append(
            race(
                NAME,
                f"{what}: time",
                ours=partial(nearest, query, rows, NEIGHBOURS),
                peer=partial(flat, query, rows),
                against="faiss's flat index",
                check=expect_same,
                rounds=3,
            )
        )
        found.append(
            memory_ratio(
                NAME,
                f"{what}: memory",
                ours=prepared_ours,
                peer=prepared_flat,
                against="faiss's flat index",
                arguments=(count,),
            )
        )
    found += [Finding(NAME, "the inverted index", skipped=why)] if why else inverted()
    save(NAME, found)
    return found


def asked(count: int) -> tuple[Tensor, Tensor]:
    """Queries, and the rows among which their neighbours are sought; all of length 1."""
    rows = functional.normalize(embeddings(count + QUERIES), dim=1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    return rows[order[:QUERIES]], rows[order[QUERIES:]]


def flat(query: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same by faiss's exact index."""
    faiss = the_library()
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.numpy())
    similarity, places = index.search(query.numpy(), NEIGHBOURS)
    return torch.from_numpy(similarity), torch.from_numpy(places)


def the_library() -> Any:
    """faiss, on one thread."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    return faiss


def prepared_ours(count: int) -> partial[Any]:
    """Our search, ready to be made."""
    torch.set_num_threads(1)
    return partial(nearest, *asked(count), NEIGHBOURS)


def prepared_flat(count: int) -> partial[Any]:
    """faiss's, ready to be made."""
    torch.set_num_threads(1)
    the_library()  # what importing takes is not measured
    return partial(flat, *asked(count))


def expect_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
    """Both find neighbours that are as near."""
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)


def inverted() -> list[Finding]:
    """What the inverted index needs at each size, and what it would need for many more."""
    found, costs = [], []
    for count in INVERTED:
        built, searched, share, recall = costs_of_inverted(count)
        costs.append((built, searched))
        found.append(
            Finding(
                NAME,
                f"inverted index of {count:,} rows: to build it; a query, which looks at {share:.1%} of the cells for "
                f"a recall of {recall:.3f}",
                figure=f"{built:.3g} s; {1000 * searched / QUERIES:.3g} ms",
            )
        )
    for name, place, unit, scale in (
        ("to build it", 0, "h", 1 / 3600),
        ("a query", 1, "ms", 1000 / QUERIES),
    ):
        values = [cost[place] for cost in costs]
        whole, low, high = (each * scale for each in followed(INVERTED, values, MANY))
        found.append(
            Finding(
                NAME,
                f"inverted index of {MANY:,} rows, extrapolated: {name}",
                figure=f"{whole:.3g} {unit} ({low:.3g} to {high:.3g})",
            )
        )
    memory = MANY * (4 * WIDTH + 8)
    found.append(
        Finding(
            NAME,
            f"inverted index of {MANY:,} rows, by its form: memory",
            figure=f"{memory / 1e9:.3g} GB",
        )
    )
    return found


def costs_of_inverted(count: int) -> tuple[float, float, float, float]:
    """Seconds to build the index and to search, the share of the rows that are looked at, and the recall."""
    faiss = the_library()
    query, rows = asked(count)
    _, true = nearest(query, rows, NEIGHBOURS)
    cells = int(4 * math.sqrt(count))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, cells, faiss.METRIC_INNER_PRODUCT)

    def build() -> None:
        index.train(rows.numpy())
        index.add(rows.numpy())

    built = clocked(build).processor
    probes, recall = 1, 0.0
    while recall < RECALL and probes < cells:
        probes *= 2
        index.nprobe = probes
        _, places = index.search(query.numpy(), NEIGHBOURS)
        hits = (torch.from_numpy(places)[:, :, None] == true[:, None]).any(2)
        recall = float(hits.double().mean())
    searched = clocked(lambda: index.search(query.numpy(), NEIGHBOURS)).processor
    return built, searched, probes / cells, recall


def followed(sizes: tuple[int, ...], costs: list[float], size: int) -> tuple[float, float, float]:
    """A power law through costs, followed to a size; and the least and greatest of those through neighbouring ones."""
    x, y = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, costs))
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    whole = float((y.mean() + slope * (math.log(size) - x.mean())).exp())
    last = float(y[-1])
    pairs = [
        math.exp(last + float((b[1] - a[1]) / (b[0] - a[0])) * (math.log(size) - float(x[-1])))
        for a, b in pairwise(list(zip(x, y, strict=True)))
    ]
    return whole, min(pairs), max(pairs)
