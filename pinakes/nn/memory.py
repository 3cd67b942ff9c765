"""Memory banks: rows that cover many others, chosen in bounded memory, and the search for the nearest of them."""

import importlib
import importlib.util
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from pinakes.errors import UserError, suggest

BLOCK_ELEMENTS = {"cpu": 2**21, "cuda": 2**26}
"""Elements of a block of the distance matrix by device: what stays in the cache of a processor, and fills a GPU."""

BANK_BLOCK = 8192
"""Rows of a bank that are compared at a time."""

LEADING_SHARE = 16
"""One in so many rows is kept up to date at every step of a farthest-first choice."""

SEARCHES = ("exact", "faiss")


def greedy_coreset(
    features: Float[Tensor, "patches features"],
    size: int,
    *,
    projection: int = 256,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Int[Tensor, " size"]:
    """Chooses `size` rows that cover all rows: each next one is the farthest from those already chosen.

    Args:
        features: The rows to choose from.
        size: How many to choose, from 1 to all.
        projection: Dimensions of the random projection in which distances are taken; rows that have no
            more dimensions than that are taken as they are.
        generator: Source of the projection and of the first choice, on the features' device.
        progress: Whether to show a progress bar.

    Returns:
        Indices of the chosen rows, in the order of choice.

    Raises:
        ValueError: If `size` is not between 1 and the number of rows.

    Source: Gonzalez, Clustering to minimize the maximum intercluster distance, 1985: the largest distance of a row to
        the chosen ones is at most twice that of the best choice.
    """
    if not 1 <= size <= len(features):
        raise ValueError(f"size: expected 1 to {len(features)} (the number of patches), got {size}")
    project = RandomProjection(features, projection, generator)
    first = _at_random(features, generator)
    return farthest_first(project(features), size, first=first, progress=progress)[0]


class RandomProjection:
    """A projection on random orthonormal axes that keeps squared distances on average.

    Args:
        rows: Rows of the kind that is projected; their mean is taken off.
        dimensions: Number of axes; rows that are no wider than that keep their own.
        generator: Source of the axes, on the rows' device.

    Source: Johnson and Lindenstrauss, Extensions of Lipschitz mappings into a Hilbert space, 1984.
    """

    def __init__(
        self,
        rows: Float[Tensor, "rows features"],
        dimensions: int,
        generator: torch.Generator | None = None,
    ) -> None:
        width = rows.shape[1]
        self.centre = rows.mean(0)
        self.axes: Tensor | None = None
        if width > dimensions:
            gaussian = torch.randn(width, dimensions, generator=generator, device=rows.device)
            self.axes = (torch.linalg.qr(gaussian).Q * (width / dimensions) ** 0.5).to(rows.dtype)

    def __call__(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows dimensions"]:
        """Projects rows."""
        if self.axes is None:
            return rows - self.centre
        return torch.addmm(-(self.centre @ self.axes), rows, self.axes)


def farthest_first(
    rows: Float[Tensor, "rows features"],
    size: int,
    *,
    first: int | None = None,
    nearest: Float[Tensor, " rows"] | None = None,
    until: float = -1.0,
    progress: bool = False,
) -> tuple[Int[Tensor, " chosen"], float]:
    """Chooses rows one after the other, each the farthest from those chosen so far.

    Distances only shrink as more are chosen. So only the rows that were farthest at the last look are kept up to date
    at every step, and the others, whose last known distances bound what they are now, in blocks, when the farthest of
    those rows falls below that bound. The choice is the same as by brute force.

    Args:
        rows: The rows to choose from, best with a mean near 0: squares are subtracted.
        size: How many to choose at most.
        first: The first choice; by default the farthest from what `nearest` tells of.
        nearest: Distances of the rows to those chosen earlier, of which they are no part; by default there are none.
        until: A distance: nothing more is chosen once all rows lie that near to a chosen one.
        progress: Whether to show a progress bar.

    Returns:
        Indices of the chosen rows in the order of choice, and the largest distance that is left between a row and the
        nearest chosen one.
    """
    count = len(rows)
    squared = torch.linalg.vector_norm(rows, dim=1).square()
    chosen = torch.empty(min(size, count), dtype=torch.int64, device=rows.device)
    distances = torch.full_like(squared, torch.inf) if nearest is None else nearest.square()
    limit = until**2 if until >= 0 else -torch.inf
    settled, taken = 0, 0
    if first is not None:
        chosen[0], taken = first, 1
    leading = max(256, count // LEADING_SHARE)
    with tqdm(total=len(chosen), initial=taken, desc="coreset", disable=not progress, leave=False) as bar:
        while taken < len(chosen):
            _settle(distances, rows, squared, chosen[settled:taken])
            settled = taken
            farthest, order = distances.topk(min(leading + 1, count))
            bound = float(farthest[-1]) if count > leading else -torch.inf
            order = order[:leading]
            distance, row, row_squared = farthest[:leading].clone(), rows[order], squared[order]
            while taken < len(chosen):
                best = distance.argmax()
                largest = float(distance[best])
                if largest < bound or largest <= limit:
                    break
                chosen[taken] = order[best]
                taken += 1
                found = _squared_distances(row, row_squared, row[best, None], row_squared[best])
                torch.minimum(distance, found[:, 0], out=distance)
                distance[best] = -torch.inf
            bar.update(taken - settled)
            if taken == settled:
                break
    _settle(distances, rows, squared, chosen[settled:taken])
    return chosen[:taken], float(distances.max().clamp(min=0).sqrt())


def _settle(distances: Tensor, rows: Tensor, squared: Tensor, chosen: Tensor) -> None:
    for start in range(0, len(rows) if len(chosen) else 0, BANK_BLOCK):
        some = slice(start, start + BANK_BLOCK)
        for latest in chosen.split(256):
            found = _squared_distances(rows[some], squared[some], rows[latest], squared[latest])
            torch.minimum(distances[some], found.amin(1), out=distances[some])
    distances[chosen] = -torch.inf


def _squared_distances(rows: Tensor, squared: Tensor, others: Tensor, others_squared: Tensor) -> Tensor:
    return torch.addmm(squared[:, None], rows, others.T, alpha=-2).add_(others_squared)


def _at_random(rows: Tensor, generator: torch.Generator | None) -> int:
    return int(torch.randint(len(rows), (1,), generator=generator, device=rows.device))


class StreamedCoreset:
    """Rows that cover all rows of a stream, found in one pass and in the memory of `limit` rows and their projections.

    Up to the limit all rows are kept. When there is no room for another, a farthest-first choice of half the limit
    stays, and a radius is noted: the sum of the cover radii of all such choices. From then on a row that lies within
    that radius of a kept one adds nothing to the cover and is passed over.

    How good the cover is: let opt(k) be the least radius with which any k of all rows cover the rest, and m half the
    limit. Rows that fill the freed half lie farther than the radius R from the m that were kept and from each other, so
    m + 1 rows are more than R apart, two of them share a centre of the best cover, and R < 2 opt(m). One more choice
    adds at most 2 opt(m) (Gonzalez, 1985), and R stays below 4 opt(m) however long the stream is. A final choice of
    k <= m rows adds at most 2 opt(k): all rows of the stream lie within 6 opt(k) of it; within 4 opt(k) if rows were
    thinned once, as in the two-round greedy choice, and 2 opt(k) if never. Distances are those of the random
    projection.

    Args:
        limit: The most rows to hold, 2 or more.
        projection: Dimensions of the random projection in which distances are taken, as for `greedy_coreset`.
        generator: Source of the projection and of the first choices.

    Raises:
        ValueError: If `limit` is below 2.

    Source: Indyk et al., Composable core-sets for diversity and coverage maximization, PODS 2014; Malkomes et al., Fast
        distributed k-center clustering with outliers on massive data, NIPS 2015 (two rounds); Charikar et al.,
        Incremental clustering and dynamic information retrieval, STOC 1997 (passing over what is covered).

    Example:
        >>> stream = StreamedCoreset(limit=64)
        >>> for _ in range(10):
        ...     stream.add(torch.rand(100, 3))
        >>> tuple(stream.choose(5).shape), stream.seen, len(stream) <= 64
        ((5, 3), 1000, True)
    """

    def __init__(
        self,
        limit: int,
        *,
        projection: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        if limit < 2:
            raise ValueError(f"limit: expected 2 rows or more, got {limit}")
        self.limit = limit
        self.projection = projection
        self.generator = generator
        self.seen = 0
        self.thinned = 0
        self.radius = 0.0
        self._held = 0
        self._rows = torch.empty(0)
        self._project: RandomProjection | None = None
        self._sketch = torch.empty(0)

    def __len__(self) -> int:
        return self._held

    @property
    def rows(self) -> Float[Tensor, "held features"]:
        """The rows that are held."""
        return self._rows[: self._held]

    def add(self, rows: Float[Tensor, "rows features"]) -> None:
        """Takes in more rows of the stream."""
        if self.seen == 0:
            self._rows = rows.new_empty(self.limit, rows.shape[1])
        self.seen += len(rows)
        while len(rows):
            if self._held == self.limit:
                self._thin()
            rows = self._take(rows)

    def choose(self, size: int, *, progress: bool = False) -> Float[Tensor, "chosen features"]:
        """A farthest-first choice of `size` of the rows that are held, or all of them if they are no more.

        Args:
            size: How many to choose.
            progress: Whether to show a progress bar.
        """
        if size >= self._held:
            return self.rows.clone()
        if self._project is None:
            options: dict[str, Any] = {"projection": self.projection, "generator": self.generator}
            return self.rows[greedy_coreset(self.rows, size, progress=progress, **options)]
        first = _at_random(self.rows, self.generator)
        chosen, _ = farthest_first(self._sketch[: self._held], size, first=first, progress=progress)
        return self.rows[chosen]

    def _take(self, rows: Tensor) -> Tensor:
        """Keeps what is not covered as far as there is room, and returns what is still to be looked at."""
        room = self.limit - self._held
        if self.radius == 0:
            self._append(rows[:room])
            return rows[room:]
        assert self._project is not None
        sketch = self._project(rows)
        distances, _ = nearest_neighbours(sketch, self._sketch[: self._held])
        new = torch.nonzero(distances[:, 0] > self.radius)[:, 0]
        if len(new) == 0:
            return rows[:0]
        chosen, left = farthest_first(sketch[new], room, nearest=distances[new, 0], until=self.radius)
        self._append(rows[new[chosen]])
        if left <= self.radius:
            return rows[:0]
        remaining = torch.ones(len(new), dtype=torch.bool, device=rows.device)
        remaining[chosen] = False
        return rows[new[remaining]]

    def _append(self, rows: Tensor) -> None:
        end = self._held + len(rows)
        self._rows[self._held : end] = rows
        if self._project is not None:
            self._sketch[self._held : end] = self._project(rows)
        self._held = end

    def _thin(self) -> None:
        if self._project is None:
            self._project = RandomProjection(self._rows, self.projection, self.generator)
            self._sketch = self._project(self._rows)
        first = _at_random(self._rows, self.generator)
        chosen, radius = farthest_first(self._sketch, self.limit // 2, first=first)
        chosen = chosen.sort().values
        _move_up(self._rows, chosen)
        _move_up(self._sketch, chosen)
        self._held = len(chosen)
        self.radius += radius
        self.thinned += 1


def _move_up(rows: Tensor, chosen: Tensor, block: int = BANK_BLOCK) -> None:
    """Moves chosen rows, given in ascending order, to the front, without a copy of all."""
    for start in range(0, len(chosen), block):
        part = chosen[start : start + block]
        rows[start : start + len(part)] = rows[part]


def nearest_neighbours(
    queries: Float[Tensor, "queries features"], bank: Float[Tensor, "bank features"], count: int = 1
) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
    """Distances to and indices of the nearest rows of a bank, nearest first, in bounded memory.

    Neighbours are found by inner products with the mean of the bank taken off, block by block; their distances are then
    taken again from the differences, so that small ones are as exact as large ones.

    Args:
        queries: Rows to look up.
        bank: Rows to search.
        count: How many to return for each query, at most all.

    Raises:
        ValueError: If the bank has fewer rows than `count`.
    """
    if not 1 <= count <= len(bank):
        raise ValueError(f"count: expected 1 to {len(bank)} (the rows of the bank), got {count}")
    block = BLOCK_ELEMENTS.get(queries.device.type, BLOCK_ELEMENTS["cpu"])
    bank_block = max(count, min(len(bank), BANK_BLOCK))
    at_a_time = max(1, block // bank_block)
    centre = bank.mean(0)
    found = torch.full_like(queries[:, :1], torch.inf).repeat(1, count)
    indices = torch.zeros_like(found, dtype=torch.int64)
    for start in range(0, len(bank), bank_block):
        part = bank[start : start + bank_block] - centre
        squared = part.square().sum(1)
        for chosen in _blocks(queries, at_a_time):
            scores = torch.addmm(squared, queries[chosen] - centre, part.T, alpha=-2)
            best = (
                scores.topk(min(count, len(part)), largest=False)
                if count > 1
                else scores.min(1, keepdim=True)
            )
            values = torch.cat([found[chosen], best.values], 1)
            places = torch.cat([indices[chosen], best.indices + start], 1)
            found[chosen], order = values.topk(count, largest=False)
            indices[chosen] = places.gather(1, order)
    return exact_distances(queries, bank, indices)


def exact_distances(
    queries: Float[Tensor, "queries features"],
    bank: Float[Tensor, "bank features"],
    indices: Int[Tensor, "queries count"],
) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
    """Distances of queries to chosen rows of a bank, from their differences, and the indices, nearest first."""
    at_a_time = max(1, BLOCK_ELEMENTS["cpu"] // (indices.shape[1] * bank.shape[1]))
    distances = torch.cat(
        [
            torch.linalg.vector_norm(queries[chosen][:, None] - bank[indices[chosen]], dim=-1)
            for chosen in _blocks(queries, at_a_time)
        ]
    )
    if indices.shape[1] == 1:
        return distances, indices
    distances, order = distances.sort(dim=1)
    return distances, indices.gather(1, order)


def _blocks(rows: Tensor, at_a_time: int) -> list[slice]:
    if torch.compiler.is_exporting():
        return [slice(None)]  # a graph must not depend on how many rows it was made with
    return [slice(start, start + at_a_time) for start in range(0, max(len(rows), 1), at_a_time)]


class FaissSearch:
    """What `nearest_neighbours` does, by the flat index of faiss: exact as well, on the CPU, with a copy of the bank.

    Args:
        bank: The rows to search.

    Raises:
        UserError: If faiss is not installed.
    """

    def __init__(self, bank: Float[Tensor, "bank features"]) -> None:
        check_search("faiss")
        faiss: Any = importlib.import_module("faiss")
        self.bank = bank
        self.index = faiss.IndexFlatL2(bank.shape[1])
        self.index.add(bank.detach().float().cpu().numpy())

    def __call__(
        self, queries: Float[Tensor, "queries features"], count: int = 1
    ) -> tuple[Float[Tensor, "queries count"], Int[Tensor, "queries count"]]:
        """Distances to and indices of the nearest rows, nearest first."""
        _, indices = self.index.search(queries.detach().float().cpu().numpy(), count)
        return exact_distances(queries, self.bank, torch.from_numpy(indices).to(queries.device))


def check_search(search: str) -> None:
    """Makes sure that a search exists and can be run.

    Raises:
        UserError: If it is unknown, or its library is not installed.
    """
    if search not in SEARCHES:
        raise UserError(f"search: '{search}' is unknown{suggest(search, SEARCHES)}")
    if search == "faiss" and importlib.util.find_spec("faiss") is None:
        raise UserError(
            "search: faiss is not installed; pip install 'pinakes[faiss]', or take search='exact'"
        )
