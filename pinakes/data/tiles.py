"""Tiles of large images as samples: a method is then fitted at the scale at which it answers tiles.

The option `?tile=N&overlap=M` of a spec cuts every image of its folders into squares of N of its own pixels, each
stretched to the size of the data; masks are cut alike. Every image is decoded once, and its tiles are kept in the cache
(`PINAKES_CACHE`), from where each is read alone.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pinakes.data.base import Sample, SampleSet, TaskData
from pinakes.data.files import Entry, ImageFiles
from pinakes.data.images import mask_to_tensor, read_image, read_mask, to_tensor
from pinakes.data.inspection import cache_folder, inspect_files
from pinakes.errors import UserError

NORMAL = "normal"


@dataclass(frozen=True)
class Tiling:
    """How an image is cut.

    Args:
        tile: Side of a tile in pixels of the original image.
        overlap: Pixels that neighbouring tiles share, below `tile`; by default a quarter of it. The last tile of a row
            or column shares more where the image does not come out even.

    Raises:
        UserError: If a value is out of range.

    Example:
        >>> Tiling(tile=100, overlap=20).starts(250)
        [0, 80, 150]
    """

    tile: int
    overlap: int | None = None

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise UserError(f"tile: expected 1 pixel or more, got {self.tile}")
        if self.overlap is not None and not 0 <= self.overlap < self.tile:
            raise UserError(
                f"overlap: expected 0 to {self.tile - 1} pixels, below the tile, got {self.overlap}"
            )

    @property
    def shared(self) -> int:
        """Pixels that neighbouring tiles share."""
        return self.tile // 4 if self.overlap is None else self.overlap

    def starts(self, length: int) -> list[int]:
        """Where the tiles of a side begin; they cover it, and none goes beyond it unless it is shorter than a tile."""
        last = max(0, length - self.tile)
        return [*range(0, last, self.tile - self.shared), last]

    def places(self, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Where the tiles of an image begin, (top, left), row by row."""
        return product(self.starts(size[0]), self.starts(size[1]))


def cut(pixels: np.ndarray, side: int, top: int, left: int, *, axis: int = 0) -> np.ndarray:
    """A square of an image; where the image ends before it does, it is filled up by mirroring, as often as it takes.

    Args:
        pixels: The image.
        side: Side of the square.
        top: Where it begins, vertically.
        left: Where it begins, horizontally.
        axis: The axis of the rows; that of the columns follows.
    """
    window = (*[slice(None)] * axis, slice(top, top + side), slice(left, left + side))
    found = pixels[window]
    missing = [(0, side - n if each in (axis, axis + 1) else 0) for each, n in enumerate(found.shape)]
    return np.pad(found, missing, mode="symmetric") if any(end for _, end in missing) else found


class TiledImages(Dataset[Sample]):
    """The tiles of image files, image by image and row by row.

    Samples are those of the files, with the image and mask of the tile, and `tile`, int64 (2,): its first row and
    column in the image. Where there are masks, a tile is anomalous (label 1) if anything in it is marked.

    Args:
        images: The files.
        tiling: How to cut them.
    """

    def __init__(self, images: ImageFiles, tiling: Tiling) -> None:
        self.images = images
        self.tiling = tiling
        facts = inspect_files(images.root, (entry.name for entry in images.entries))
        self.sizes = [facts[entry.name].size for entry in images.entries]
        self.places = [
            (index, number, place)
            for index, size in enumerate(self.sizes)
            for number, place in enumerate(tiling.places(size))
        ]

    @property
    def groups(self) -> tuple[str, ...]:
        """The image of each tile; tiles of one image belong together when data are split."""
        return tuple(self.images.entries[index].name for index, _, _ in self.places)

    @property
    def paths(self) -> tuple[str, ...]:
        """The image of each tile, and where in it the tile begins."""
        return tuple(
            f"{self.images.entries[index].name} [{top}, {left}]" for index, _, (top, left) in self.places
        )

    @cached_property
    def labels(self) -> tuple[int | None, ...]:
        """The label of each tile, None where there are no labels; looks at the masks that there are."""
        return tuple(
            self._label(self.images.entries[index], index, number) for index, number, _ in self.places
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each tile: that of its image, unless nothing in it is marked."""
        return tuple(
            _kind(self.images.entries[index], label)
            for (index, _, _), label in zip(self.places, self.labels, strict=True)
        )

    def fingerprint(self) -> str:
        """Changes when the files do, or the cut."""
        words = repr((self.images.fingerprint(), self.tiling.tile, self.tiling.shared))
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        image, number, place = self.places[index]
        entry = self.images.entries[image]
        pixels = self._stored("image", image, self._cut_image)[number]
        scaled = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
        sample: Sample = {
            "image": torch.from_numpy(scaled),
            "path": entry.name,
            "tile": torch.tensor(place),
        }
        label = self._label(entry, image, number)
        if label is not None:
            sample |= {"label": torch.tensor(label), "kind": _kind(entry, label)}
        if self.images.masks:
            sample["mask"] = (
                torch.from_numpy(self._stored("mask", image, self._cut_mask)[number].copy())
                if entry.mask
                else torch.zeros(self.images.size, dtype=torch.bool)
            )
        return sample

    def _label(self, entry: Entry, image: int, number: int) -> int | None:
        if entry.label and entry.mask:
            return int(self._stored("mask", image, self._cut_mask)[number].any())
        return entry.label

    def _cut_image(self, entry: Entry) -> Iterator[np.ndarray]:
        pixels = read_image(self.images.root / entry.name)
        for top, left in self.tiling.places(pixels.shape[:2]):
            tile = to_tensor(
                np.ascontiguousarray(cut(pixels, self.tiling.tile, top, left)),
                self.images.size,
                self.images.channels,
            )
            yield ((tile * 255).round().to(torch.uint8) if pixels.dtype == np.uint8 else tile).numpy()

    def _cut_mask(self, entry: Entry) -> Iterator[np.ndarray]:
        mask = read_mask(self.images.root / entry.mask)
        for top, left in self.tiling.places(mask.shape):
            tile: Tensor = mask_to_tensor(
                np.ascontiguousarray(cut(mask, self.tiling.tile, top, left)), self.images.size
            )
            yield tile.numpy()

    def _stored(self, what: str, image: int, make: Callable[[Entry], Iterator[np.ndarray]]) -> np.ndarray:
        """All tiles of an image, mapped from the cache; cut if they are not there yet."""
        path = self._cache / f"{image}-{what}.npy"
        with suppress(FileNotFoundError):
            return np.load(path, mmap_mode="r")
        count = sum(1 for _ in self.tiling.places(self.sizes[image]))
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                for number, tile in enumerate(make(self.images.entries[image])):
                    if number == 0:
                        header = {
                            "descr": np.lib.format.dtype_to_descr(tile.dtype),
                            "fortran_order": False,
                            "shape": (count, *tile.shape),
                        }
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(np.ascontiguousarray(tile).tobytes())
            part.replace(path)
        except OSError as error:
            raise UserError(
                f"{path.parent}: tiles cannot be kept there ({error.strerror}); set PINAKES_CACHE to a folder with room"
            ) from error
        finally:
            if path.parent.is_dir():
                part.unlink(missing_ok=True)
        return np.load(path, mmap_mode="r")

    @cached_property
    def _cache(self) -> Path:
        return cache_folder() / "tiles" / self.fingerprint()


def _kind(entry: Entry, label: int | None) -> str:
    return NORMAL if entry.label and not label else entry.kind


def tiled(data: TaskData, tiling: Tiling) -> TaskData:
    """Data whose samples are tiles of the images.

    Anomalous images without masks do not say which of their tiles are anomalous; then there is no test part.

    Raises:
        UserError: If the images are not files with at most a label and a mask each.
    """
    parts: dict[str, SampleSet | None] = {}
    layout = f"{data.layout}; cut into tiles of {tiling.tile} pixels that share {tiling.shared}"
    for name, part in data.splits():
        if type(part) is not ImageFiles:
            raise UserError(
                f"{data.spec}: only images in files with a label or a mask each can be cut; leave out tile"
            )
        bare = data.classes[:1] == (NORMAL,) and any(each.label and not each.mask for each in part.entries)
        parts[name] = None if bare else TiledImages(part, tiling)
        layout += f"; no {name} part, because masks do not say which tiles are anomalous" if bare else ""
    return replace(data, layout=layout, **parts)  # type: ignore[arg-type]  # train, val and test
