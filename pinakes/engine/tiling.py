"""Large images, tile by tile: cut, predicted in batches, and put together again at the original resolution.

A tile is a square of the original image, stretched to the size that the method was fitted on; so the side of a tile
sets the scale at which the method looks. Scores of an image are those of its worst tile, the highest. Maps are
stretched back to the tile's own pixels and blended where tiles overlap. Where an image is smaller than a tile, the tile
is filled up by mirroring, so that the scale stays, and the map is cut back.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pinakes.data import load_images
from pinakes.data.images import read_image, to_tensor
from pinakes.data.tiles import Tiling, cut
from pinakes.errors import UserError
from pinakes.tasks.base import Field, Prediction

if TYPE_CHECKING:
    from pinakes.method import Method

Pixels = Tensor | np.ndarray
"""An image: a tensor (channels, height, width) in [0, 1], or an array as `read_image` gives."""

Rows = Callable[[str, int, Tensor], None]
"""Takes rows of a map that are finished: the map's name, the first row's number, and float32 (rows, width)."""


def window(tiling: Tiling) -> Float[Tensor, " tile"]:
    """The weight of each pixel along a tile's side, above 0: a raised cosine where tiles overlap, else 1."""
    ramp = torch.ones(tiling.tile)
    if tiling.shared:
        inside = (torch.arange(tiling.shared) + 0.5) / tiling.shared
        ramp[: tiling.shared] = torch.sin(0.5 * torch.pi * inside).square()
    return torch.minimum(ramp, ramp.flip(0))


class Mosaic:
    """Puts the maps of tiles together, row of tiles by row of tiles; holds no more than one such row.

    The value of a pixel is the mean of its tiles' values, weighted by the window; where all tiles agree, it is theirs.

    Args:
        tiling: How the image was cut.
        size: Height and width of the image.
    """

    def __init__(self, tiling: Tiling, size: tuple[int, int]) -> None:
        height, width = size
        self.tiling = tiling
        self.size = size
        self.tops, self.lefts = tiling.starts(height), tiling.starts(width)
        self.window = window(tiling)
        self.weights = (_total(self.window, self.tops, height), _total(self.window, self.lefts, width))
        self.band = torch.zeros(tiling.tile, max(width, tiling.tile))
        self.row = 0

    def add(self, top: int, left: int, tile_map: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Takes in the map of a tile, in the order of rows, and gives the rows before it that are finished.

        Args:
            top: Where the tile begins, vertically.
            left: Where it begins, horizontally.
            tile_map: Its map (tile, tile), float32 on the CPU.
        """
        if top != self.row:
            yield self._finished(top)
            kept = self.band[top - self.row :].clone()
            self.band.zero_()
            self.band[: len(kept)] = kept
            self.row = top
        weight = self.window[:, None] * self.window[None, :]
        self.band[:, left : left + self.tiling.tile].addcmul_(weight, tile_map)

    def rest(self) -> tuple[int, Tensor]:
        """The last rows."""
        return self._finished(self.size[0])

    def _finished(self, end: int) -> tuple[int, Tensor]:
        vertical, horizontal = self.weights
        count, width = end - self.row, self.size[1]
        weight = vertical[self.row : end, None] * horizontal[None, :]
        return self.row, self.band[:count, :width] / weight


def _total(window: Tensor, starts: Sequence[int], length: int) -> Tensor:
    """The sum of the windows along a side."""
    total = torch.zeros(max(length, len(window)))
    for start in starts:
        total[start : start + len(window)] += window
    return total[:length]


def predict_tiles(
    method: "Method", image: Pixels, tiling: Tiling, *, batch_size: int = 32, rows: Rows
) -> dict[str, Tensor]:
    """Answers one large image, and hands its maps on row by row, so that none is ever held whole.

    Args:
        method: A fitted method.
        image: The image.
        tiling: How to cut it.
        batch_size: Tiles at a time.
        rows: Called with finished rows of each map, from the top to the bottom.

    Returns:
        The highest value of each score of the tiles, 0-dimensional on the CPU; of a decision, whether it is true of
        any tile.

    Raises:
        UserError: If the method answers with something that is neither a score of the image nor a map of its pixels.
        ValueError: If the image is not as the task states.
    """
    height, width = image.shape[-2:] if isinstance(image, Tensor) else image.shape[:2]
    places = tiling.places((height, width))
    scores: dict[str, Tensor] = {}
    maps: dict[str, Mosaic] = {}
    while batch := list(islice(places, batch_size)):
        tiles = torch.stack([_tile(image, tiling.tile, top, left, method) for top, left in batch])
        answer = method.predict(tiles)
        mapped = {name: is_map(method, name) for name in answer}
        for name, value in answer.items():
            if not mapped[name]:
                highest = value.cpu().amax(0)
                scores[name] = torch.maximum(scores[name], highest) if name in scores else highest
                continue
            mosaic = maps.setdefault(name, Mosaic(tiling, (height, width)))
            for (top, left), tile_map in zip(batch, value.float().cpu(), strict=True):
                whole = _stretched(tile_map[None, None], (tiling.tile, tiling.tile))[0, 0]
                for first, finished in mosaic.add(top, left, whole):
                    rows(name, first, finished)
    for name, mosaic in maps.items():
        rows(name, *mosaic.rest())
    return scores


def is_map(method: "Method", name: str) -> bool:
    """Whether a value of the prediction is a map of the image's pixels rather than a score of the image.

    Raises:
        UserError: If it is neither: the answers of tiles cannot be put together.
    """
    field = method.task.prediction.get(name, Field("a value that the task does not state", ""))
    floating = isinstance(field.dtype, torch.dtype) and field.dtype.is_floating_point
    if floating and not field.ragged and field.dimensions == ["batch", "height", "width"]:
        return True
    if (floating or field.dtype == torch.bool) and not field.ragged and field.dimensions == ["batch"]:
        return False
    raise UserError(
        f"tile: {type(method).__name__} answers '{name}' ({field.about}), which cannot be put together from tiles; "
        "only scores of images and maps of pixels can; leave out tile"
    )


def _tile(image: Pixels, side: int, top: int, left: int, method: "Method") -> Tensor:
    """A tile (channels, height, width) as large as the method takes it."""
    size, channels = method.info.size, method.info.channels
    if isinstance(image, Tensor):
        found = torch.from_numpy(cut(image.cpu().numpy(), side, top, left, axis=1))
        return _stretched(found[None], size)[0]
    return to_tensor(np.ascontiguousarray(cut(image, side, top, left)), size, channels)


def _stretched(values: Tensor, size: tuple[int, int]) -> Tensor:
    if values.shape[-2:] == size:
        return values
    return functional.interpolate(values, size=size, mode="bilinear", align_corners=False, antialias=True)


def predict_tiled(method: "Method", inputs: Any, tiling: Tiling, *, batch_size: int = 32) -> Prediction:
    """Answers large images tile by tile; what `Method.predict` does when it is given `tile`.

    Args:
        method: A fitted method.
        inputs: Images (batch, channels, height, width) or one (channels, height, width) in [0, 1], a dict with them
            as `image`, or image files and folders.
        tiling: How to cut them.
        batch_size: Tiles at a time.

    Returns:
        Scores (images,), and each map at its image's own resolution: for tensors (images, height, width), for files
        a list with one (height, width) an image, because their sizes may differ. On the CPU.

    Raises:
        UserError: If the inputs are a data set, or an answer cannot be put together from tiles.
        ValueError: If an image is not as the task states.
    """
    images, same_size = _images(method, inputs)
    answers: list[dict[str, Tensor]] = []
    for image in images:
        bands: dict[str, list[Tensor]] = defaultdict(list)

        def keep(name: str, first: int, finished: Tensor, bands: dict[str, list[Tensor]] = bands) -> None:
            bands[name].append(finished)

        scores = predict_tiles(method, image, tiling, batch_size=batch_size, rows=keep)
        answers.append(scores | {name: torch.cat(parts) for name, parts in bands.items()})
    return {
        name: torch.stack([each[name] for each in answers])
        if same_size or not is_map(method, name)
        else [each[name] for each in answers]
        for name in answers[0]
    }


def _images(method: "Method", inputs: Any) -> tuple[Iterator[Pixels], bool]:
    """The images one after the other, and whether all have one size."""
    if isinstance(inputs, Mapping) and set(inputs) == {"image"}:
        inputs = inputs["image"]
    if isinstance(inputs, Tensor):
        batch = inputs[None] if inputs.ndim == 3 else inputs
        method.task.check_batch({"image": batch}, method.info)
        return iter(batch), True
    if isinstance(inputs, str | Path | list | tuple):
        paths = load_images(inputs, method.info).paths
        return (read_image(path) for path in paths), False
    raise UserError("tile: give images or image files; other data are predicted as they are, without tile")
