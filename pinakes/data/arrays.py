"""Data sets of small images that come inside installed packages as one array."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Sample, TaskData
from pinakes.data.mvtec import CLASSES as NORMAL_OR_NOT
from pinakes.data.sources import Request
from pinakes.data.splits import hold_out
from pinakes.errors import UserError

_TEST_SHARE, _VAL_SHARE = 0.2, 0.25
"""A fifth of everything, then a quarter of the rest: 60 % train, 20 % val, 20 % test."""

Source = Callable[[], tuple[np.ndarray, np.ndarray]]
"""Grey images (n, height, width) in [0, 1] and their classes (n,); a cached function of a module, so that data sets
carry its name to their workers instead of the pixels."""


class ArrayImages(Dataset[Sample]):
    """Some images of an array, enlarged when they are asked for.

    Args:
        source: Gives the array.
        name: Name of the set, for the names of the samples.
        rows: Which images.
        labels: Label of each.
        kinds: Class name of each.
        size: Height and width in pixels.
        channels: 3 or 1.
    """

    def __init__(
        self,
        source: Source,
        name: str,
        rows: Sequence[int],
        labels: Sequence[int],
        kinds: Sequence[str],
        *,
        size: tuple[int, int],
        channels: int,
    ) -> None:
        self.source = source
        self.name = name
        self.rows = tuple(rows)
        self.labels = tuple(labels)
        self.kinds = tuple(kinds)
        self.size = size
        self.channels = channels

    @property
    def paths(self) -> tuple[str, ...]:
        """Names of the samples."""
        return tuple(f"{self.name}/{kind}/{row:04d}" for kind, row in zip(self.kinds, self.rows, strict=True))

    def fingerprint(self) -> str:
        """A hash of the pixels and of which samples there are."""
        digest = hashlib.sha256(self.source()[0][list(self.rows)].tobytes())
        digest.update(repr((self.paths, self.labels, self.size, self.channels)).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        row, kind = self.rows[index], self.kinds[index]
        return {
            "image": _enlarged(self.source()[0][row], self.size).expand(self.channels, -1, -1).contiguous(),
            "label": torch.tensor(self.labels[index]),
            "kind": kind,
            "path": f"{self.name}/{kind}/{row:04d}",
        }


def _enlarged(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    image = Image.fromarray(pixels.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image).clip(0, 1))


def from_array(
    request: Request,
    source: Source,
    name: str,
    classes: tuple[str, ...],
    *,
    size: tuple[int, int],
    n: int,
    normal: str,
) -> TaskData:
    """Splits an array 60/20/20, every class alike, and makes its `TaskData`.

    Args:
        request: What is asked for.
        source: Gives images and classes.
        name: Name of the set.
        classes: Names of the classes.
        size: Height and width in pixels unless the request says otherwise.
        n: Number of training images to keep, shared among the classes, with as many test images at most; 0 for all.
        normal: The class of normal images, for anomaly detection, or an empty string.

    Raises:
        UserError: If `n` is smaller than the number of classes, or the spec has a path.
    """
    request.refuse_path()
    if n and n < len(classes):
        raise UserError(f"the option 'n' must be at least {len(classes)}, one image of every class, got {n}")
    labels = source()[1]
    rest, test = _split(name, labels, range(len(labels)), _TEST_SHARE, request.seed)
    train, val = _split(name, labels, rest, _VAL_SHARE, request.seed)
    rows = {"train": train, "val": val, "test": test}
    if normal:
        wanted = classes.index(normal)
        for part in ("train", "val"):
            rows[part] = [row for row in rows[part] if labels[row] == wanted]

    def made(which: str) -> ArrayImages:
        chosen = _first(rows[which], labels, n) if n else rows[which]
        found = [int(labels[row]) for row in chosen]
        given = [int(label != wanted) for label in found] if normal else found
        kinds = [classes[label] for label in found]
        return ArrayImages(
            source, name, chosen, given, kinds, size=request.size or size, channels=request.channels
        )

    layout = f"built-in set '{name}'" + (f", '{normal}' is normal" if normal else "")
    info = DataInfo(request.channels, request.size or size, NORMAL_OR_NOT if normal else classes)
    return TaskData(request.spec, layout, made("train"), made("val"), made("test"), info)


def _split(
    name: str, labels: np.ndarray, rows: Sequence[int], share: float, seed: int
) -> tuple[list[int], list[int]]:
    held = hold_out([f"{name}/{row}" for row in rows], [str(labels[row]) for row in rows], share, seed)
    kept = [row for i, row in enumerate(rows) if i not in held]
    return kept, [row for i, row in enumerate(rows) if i in held]


def _first(rows: Sequence[int], labels: np.ndarray, n: int) -> list[int]:
    """The first n, taking the classes in turn."""
    rank: dict[int, int] = {}
    turns = []
    for row in rows:
        label = int(labels[row])
        rank[label] = rank.get(label, -1) + 1
        turns.append((rank[label], label, row))
    return sorted(row for _, _, row in sorted(turns)[:n])
