"""Maps of large images on disk: written row by row, and looked at from afar."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

CHUNK_ROWS = 256


class MapFile:
    """A `.npy` file of a map that is written from the top to the bottom, in memory that does not grow with it.

    It is float16, unless a value does not fit; then all of it becomes float32.

    Args:
        path: The file; it is there once `close` was called.
        size: Height and width of the map.
    """

    def __init__(self, path: Path, size: Sequence[int]) -> None:
        self.path = path
        self.size = (int(size[0]), int(size[1]))
        self.dtype: np.dtype[Any] = np.dtype(np.float16)
        self._rows = 0
        self._begin()

    def write(self, rows: Tensor) -> None:
        """Adds the next rows (any number, width)."""
        values = rows.numpy()
        if self.dtype == np.float16 and np.abs(values).max() > np.finfo(np.float16).max:
            self._widen()
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).tobytes())
        self._rows += len(values)

    def close(self) -> Path:
        """Puts the file in its place and returns it."""
        self._file.close()
        return self._part.replace(self.path)

    def discard(self) -> None:
        """Removes what was written so far, if it is not in its place."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def _begin(self) -> None:
        self._part = self.path.with_name(f".{self.path.name}.{self.dtype.name}.part")
        self._file = self._part.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": self.size,
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._header_bytes = self._file.tell()

    def _widen(self) -> None:
        self._file.close()
        narrow, header_bytes = self._part, self._header_bytes
        self.dtype = np.dtype(np.float32)
        self._begin()
        with narrow.open("rb") as file:
            file.seek(header_bytes)
            while chunk := file.read(2 * CHUNK_ROWS * self.size[1]):
                self._file.write(np.frombuffer(chunk, np.float16).astype(np.float32).tobytes())
        narrow.unlink()


class MapFiles:
    """The maps of one image on disk by name; called with the rows of each from the top to the bottom.

    Args:
        place: From the name of a map to its file.
        size: Height and width of the maps.
    """

    def __init__(self, place: Callable[[str], Path], size: Sequence[int]) -> None:
        self.place = place
        self.size = size
        self.files: dict[str, MapFile] = {}

    def __call__(self, name: str, first: int, rows: Tensor) -> None:
        """Adds the next rows of a map."""
        if name not in self.files:
            self.files[name] = MapFile(self.place(name), self.size)
        self.files[name].write(rows)

    def close(self) -> dict[str, Path]:
        """Puts the files in their places and returns them."""
        return {name: file.close() for name, file in self.files.items()}

    def discard(self) -> None:
        """Removes what is not in its place."""
        for file in self.files.values():
            file.discard()


def from_afar(path: Path, step: int) -> np.ndarray:
    """The map of a file with the highest value of each square of `step` pixels, so that small peaks stay visible.

    Returns:
        float32 (ceil(height / step), ceil(width / step)).
    """
    stored = np.load(path, mmap_mode="r")
    for axis in (0, 1):
        stored = np.maximum.reduceat(stored, np.arange(0, stored.shape[axis], step), axis=axis)
    return stored.astype(np.float32)
