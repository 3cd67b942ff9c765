"""Holes in images, drawn at random: which pixels are missing.

Source: the families of Lugmayr et al., RePaint: Inpainting using Denoising Diffusion Probabilistic Models, CVPR 2022
(arXiv:2201.09865), section 5.1, and a box.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Hole = Bool[Tensor, "height width"]
Draw = Callable[[int, int, torch.Generator], Hole]


def drawn_hole(kind: str, size: tuple[int, int], generator: torch.Generator) -> Hole:
    """A hole of a kind.

    Args:
        kind: One of `HOLES`.
        size: Height and width in pixels, each 4 or more.
        generator: What it is drawn from.

    Returns:
        True where pixels are missing; some are, and some are not.

    Raises:
        ValueError: If there is no such kind, or the size is too small.

    Example:
        >>> drawn_hole("lines", (4, 4), torch.Generator().manual_seed(0)).int()
        tensor([[0, 0, 0, 0],
                [1, 1, 1, 1],
                [0, 0, 0, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    if kind not in HOLES:
        raise ValueError(f"kind: expected one of {', '.join(HOLES)}, got '{kind}'")
    if min(size) < 4:
        raise ValueError(f"size: expected 4 pixels or more a side, got {size[0]} x {size[1]}")
    return _DRAWN[kind](*size, generator)


def strokes(
    size: tuple[int, int], points: Float[Tensor, "points 2"], width: float
) -> Bool[Tensor, "height width"]:
    """The pixels near a line from point to point.

    Args:
        size: Height and width in pixels.
        points: Row and column of each, in pixels; two or more.
        width: Of the line, in pixels.
    """
    rows, columns = (torch.arange(side, dtype=points.dtype) for side in size)
    pixels = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)[:, :, None]
    start, way = points[:-1], points.diff(dim=0)
    length = way.square().sum(-1).clamp(min=1e-12)
    share = (((pixels - start) * way).sum(-1) / length).clamp(0, 1)
    nearest = start + share[..., None] * way
    near: Tensor = ((pixels - nearest).square().sum(-1) <= (width / 2) ** 2).any(-1)
    return near


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _whole(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


def _stroked(points: tuple[int, int], width: tuple[float, float]) -> Draw:
    """Strokes through so many points, so wide as shares of the smaller side."""

    def draw(height: int, columns: int, generator: torch.Generator) -> Hole:
        count = _whole(*points, generator)
        # whole pixels, so that a point lies on one and the hole is never empty
        ends = torch.tensor([height - 1, columns - 1])
        places = (torch.rand(count, 2, generator=generator) * ends).round()
        wide = max(1.0, _uniform(*width, generator) * min(height, columns))
        return strokes((height, columns), places, wide)

    return draw


def _box(height: int, width: int, generator: torch.Generator) -> Hole:
    """A rectangle with sides of a third to two thirds of the image's."""
    hole = torch.zeros(height, width, dtype=torch.bool)
    tall, wide = (round(_uniform(1 / 3, 2 / 3, generator) * side) for side in (height, width))
    top, left = _whole(0, height - tall, generator), _whole(0, width - wide, generator)
    hole[top : top + tall, left : left + wide] = True
    return hole


def _half(height: int, width: int, generator: torch.Generator) -> Hole:
    hole = torch.zeros(height, width, dtype=torch.bool)
    side = _whole(0, 3, generator)
    if side < 2:
        hole[: height // 2] = True
    else:
        hole[:, : width // 2] = True
    return hole.flip(0, 1) if side % 2 else hole


def _surround(height: int, width: int, generator: torch.Generator) -> Hole:
    hole = torch.ones(height, width, dtype=torch.bool)
    top, left = height // 4, width // 4
    hole[top : height - top, left : width - left] = False
    return hole


def _lines(height: int, width: int, generator: torch.Generator) -> Hole:
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[1::2] = True
    return hole


def _every_second(height: int, width: int, generator: torch.Generator) -> Hole:
    hole = torch.ones(height, width, dtype=torch.bool)
    hole[::2, ::2] = False
    return hole


HOLES = {
    "wide": "wide strokes",
    "narrow": "narrow strokes",
    "box": "a rectangle somewhere",
    "half": "one of the four halves",
    "surround": "all but the middle, half as high and wide as the image",
    "lines": "every second row",
    "every_second": "all but every second pixel of every second row",
}
"""The kinds of holes, and what each is."""

_DRAWN: dict[str, Draw] = {
    "wide": _stroked((2, 4), (0.2, 0.3)),
    "narrow": _stroked((5, 9), (0.04, 0.1)),
    "box": _box,
    "half": _half,
    "surround": _surround,
    "lines": _lines,
    "every_second": _every_second,
}
