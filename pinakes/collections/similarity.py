"""Which of many rows are alike: exact search by cosine in blocks, in memory that the number of rows does not square."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor
from torch.nn import functional

BLOCK = {"cpu": 1024, "cuda": 16384}
"""Rows that are compared with as many others at a time, by device."""

HEADS = (32, 64, 128, 256)
"""Numbers of leading directions that are tried before whole rows are compared."""

LIKELY = 2e-3
"""The largest share of the pairs of a block that are compared one by one; where there are more, all are at once."""

ROUNDING = 1e-5
"""What rounding may take off a bound of a cosine."""


LEAST_SHRINKAGE = 0.01
"""What is taken of the mean variance into each, at least: directions that hardly vary hold noise."""

ESTIMATED = 10_000
"""Rows that the shrinkage is estimated from, at most."""

FEW = 20
"""Rows below which a covariance tells nothing."""


class Pairs(NamedTuple):
    """Pairs of rows that are alike, `first` below `second`, and their cosine similarity."""

    first: Int[Tensor, " pairs"]
    second: Int[Tensor, " pairs"]
    similarity: Float[Tensor, " pairs"]


def whitened(rows: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
    """Unit vectors of rows whose mean is taken off and whose covariance is made that of independent numbers.

    The covariance is shrunk towards a multiple of the identity, by as much as its own error tells, so that few rows do
    as well; fewer than 20, or rows that are all the same, are only brought to length 1.

    Source: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004.
    """
    mean = rows.mean(0)
    centred = rows - mean
    if len(rows) < FEW or centred.norm() <= 1e-5 * len(rows) ** 0.5 * mean.norm():
        return functional.normalize(rows, dim=1)
    some = centred[:: -(-len(rows) // ESTIMATED)].double().cpu().numpy()
    shrinkage = max(float(ledoit_wolf_shrinkage(some, assume_centered=True)), LEAST_SHRINKAGE)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=rows.device)
    for part in centred.split(_block(rows)):
        covariance += part.double().mT @ part.double() / len(rows)
    variance, directions = torch.linalg.eigh(covariance)
    variance = (1 - shrinkage) * variance.clamp(min=0) + shrinkage * variance.mean()
    return functional.normalize(centred @ (directions / variance.sqrt()).to(rows.dtype), dim=1)


def nearest_similarity(
    rows: Float[Tensor, "rows width"], asked: Int[Tensor, " asked"]
) -> Float[Tensor, " asked"]:
    """The cosine similarity of some rows to the nearest other row, exact.

    Args:
        rows: Two or more.
        asked: The places of those rows.
    """
    unit = functional.normalize(rows, dim=1)
    block = _block(rows)
    best = torch.full((len(asked),), -1.0, device=rows.device)
    for begin in range(0, len(asked), block):
        place = asked[begin : begin + block]
        for start in range(0, len(rows), block):
            similarity = unit[place] @ unit[start : start + block].mT
            inside = ((place >= start) & (place < start + block)).nonzero()[:, 0]
            similarity[inside, place[inside] - start] = -1  # a row is no neighbour of its own
            best[begin : begin + block] = torch.maximum(best[begin : begin + block], similarity.amax(1))
    return best.clamp(-1, 1)


def similar_pairs(rows: Float[Tensor, "rows width"], threshold: float) -> Iterator[Pairs]:
    """All pairs of rows whose cosine similarity is at least a threshold, block by block.

    Most pairs need not be compared whole. In the basis of principal directions a unit row is a head of a few numbers
    and a tail, and the cosine of two is at most the product of the heads plus the product of the lengths of the tails
    (Cauchy-Schwarz). One matrix product of heads, with the tail's length as one more number, bounds all pairs of a
    block; those whose bound reaches the threshold are then compared exactly, so that nothing is missed.

    Args:
        rows: The rows, on the device that does the work.
        threshold: In (-1, 1].

    Yields:
        The pairs of a block, if it has any; as many as two blocks of rows can make, at most.
    """
    unit = functional.normalize(rows, dim=1)
    bounds = _bounds(unit, threshold)
    block = _block(rows)
    for begin in range(0, len(rows), block):
        for start in range(begin, len(rows), block):
            ours, theirs = slice(begin, begin + block), slice(start, start + block)
            found = _alike(unit, bounds, ours, theirs, threshold)
            if len(found.first):
                yield found


def _alike(unit: Tensor, bounds: Tensor | None, ours: slice, theirs: slice, threshold: float) -> Pairs:
    if bounds is not None:
        likely = bounds[ours] @ bounds[theirs].mT >= threshold - ROUNDING
        if likely.count_nonzero() <= LIKELY * likely.numel():
            first, second = likely.nonzero(as_tuple=True)
            first, second = first + ours.start, second + theirs.start
            apart = first < second
            first, second = first[apart], second[apart]
            return _kept(first, second, _products(unit, first, second), threshold)
    similarity = unit[ours] @ unit[theirs].mT
    first, second = (similarity >= threshold).nonzero(as_tuple=True)
    value = similarity[first, second]
    first, second = first + ours.start, second + theirs.start
    apart = first < second
    return Pairs(first[apart], second[apart], value[apart].clamp(max=1))


def _products(unit: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each pair, some pairs at a time."""
    parts = [
        torch.einsum("pw,pw->p", unit[a], unit[b])
        for a, b in zip(first.split(2**14), second.split(2**14), strict=True)
    ]
    return torch.cat(parts) if parts else unit.new_zeros(0)


def _kept(first: Tensor, second: Tensor, similarity: Tensor, threshold: float) -> Pairs:
    enough = similarity >= threshold
    return Pairs(first[enough], second[enough], similarity[enough].clamp(max=1))


def _bounds(unit: Tensor, threshold: float) -> Tensor | None:
    """Heads with the length of their tails, as short as they may be; None where whole rows are as cheap."""
    heads = [head for head in HEADS if 2 * head < unit.shape[1]]
    block = _block(unit)
    if not heads or len(unit) <= block:
        return None
    some = unit[:: max(1, len(unit) // block)][:block]
    products = torch.stack([part.mT @ part for part in unit.split(len(unit) // 8 + 1)]).double().sum(0)
    directions = torch.linalg.eigh(products).eigenvectors.flip(1).to(unit.dtype)
    for head in heads:
        bound = _headed(some, directions, head)
        likely = (bound @ bound.mT >= threshold - ROUNDING).count_nonzero() - len(some)
        if likely <= LIKELY / 2 * len(some) ** 2:
            return torch.cat([_headed(part, directions, head) for part in unit.split(block)])
    return None


def _headed(unit: Tensor, directions: Tensor, head: int) -> Tensor:
    turned = unit @ directions
    return torch.cat([turned[:, :head], turned[:, head:].norm(dim=1, keepdim=True)], dim=1)


def _block(rows: Tensor) -> int:
    return BLOCK.get(rows.device.type, BLOCK["cpu"])
