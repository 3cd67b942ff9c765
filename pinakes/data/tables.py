"""Folders of images with a table: `table.csv` beside them holds a row for each image."""

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from pinakes.data import folder
from pinakes.data.base import Column, Sample, SampleSet, TaskData
from pinakes.data.files import ImageFiles
from pinakes.data.layouts import TABLE
from pinakes.data.sources import Request
from pinakes.errors import UserError

FILE = "file"
"""Heading of the column that names the image of a row."""
MOST_CHOICES = 256


def load(request: Request) -> TaskData:
    """Loads a folder for each class or a flat folder, as `pinakes.data.folder` does, with the table beside it.

    `table.csv` is a table in UTF-8 with commas and a line of headings. Its column `file` names an image, relative to
    the folder. A column whose cells are all numbers is one of quantities, any other one of choices. Empty cells get the
    mean over the training images, or are a choice of their own.

    Samples hold `table`, float (columns), besides what they hold without one.

    Args:
        request: What is asked for.

    Raises:
        UserError: If the table is no table, or lacks the row of an image.
    """
    path = request.root / TABLE
    data = folder.load(request)
    train = getattr(data.train, "paths", ())
    table = read_table(path, train)
    parts: dict[str, SampleSet] = {}
    for name, part in data.splits():
        assert isinstance(part, ImageFiles)
        lacking = [each for each in part.paths if each not in table.places]
        if lacking:
            raise UserError(
                f"{path}: has no row for {lacking[0]}{f' and {len(lacking) - 1} others' if lacking[1:] else ''}; its "
                f"column '{FILE}' names images relative to {request.root}"
            )
        parts[name] = WithTable(part, table.rows[[table.places[each] for each in part.paths]])
    names = ", ".join(column.name for column in table.columns)
    layout = f"{data.layout}; a table of {len(table.columns)} columns ({names})"
    info = replace(data.info, columns=table.columns)
    return replace(data, layout=layout, info=info, **parts)  # type: ignore[arg-type]  # train, val and test


class WithTable(Dataset[Sample]):
    """Image files with a row of a table each.

    Args:
        images: The files.
        rows: One for each image.
    """

    def __init__(self, images: ImageFiles, rows: Float[Tensor, "images columns"]) -> None:
        self.images, self.rows = images, rows
        self.paths, self.labels, self.kinds = images.paths, images.labels, images.kinds
        self.native_sizes = images.native_sizes

    def fingerprint(self) -> str:
        """Changes when the files or their rows do."""
        content = self.images.fingerprint().encode() + self.rows.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.images[index] | {"table": self.rows[index].clone()}


@dataclass(frozen=True)
class Table:
    """What a file of a table holds.

    Args:
        columns: Its columns but for the one that names images.
        rows: (rows, columns).
        places: The row of each image by its name.
    """

    columns: tuple[Column, ...]
    rows: Tensor
    places: dict[str, int]


def read_table(path: Path, train: Sequence[str]) -> Table:
    """Reads a table.

    Args:
        path: The file.
        train: Names of the images over which the mean of a quantity is taken that stands in for empty cells.

    Raises:
        UserError: If there is no such file or it cannot be used; the message names line or column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            read = [[cell.strip() for cell in line] for line in csv.reader(file, strict=True) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read as a table ({error}); save it in UTF-8, with commas and a line of headings"
        ) from error
    heads, *lines = read or [[]]
    if FILE not in heads:
        raise UserError(
            f"{path}: has no column '{FILE}', but {', '.join(heads) or 'nothing'}; name the image of each row there, "
            f"or load the images alone, as folder:{path.parent}"
        )
    if len(heads) < 2 or len(set(heads)) < len(heads) or "" in heads:
        raise UserError(f"{path}: needs a column or more beside '{FILE}', each with a heading of its own")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(heads):
            raise UserError(
                f"{path}: row {number} has {len(line)} cells, and there are {len(heads)} headings"
            )
    cells = dict(zip(heads, zip(*lines, strict=True), strict=True)) if lines else {}
    names = [name.replace("\\", "/").removeprefix("./") for name in cells.pop(FILE, ())]
    places = {name: place for place, name in enumerate(names)}
    if len(places) < len(names):
        twice = next(name for place, name in enumerate(names) if places[name] != place)
        raise UserError(f"{path}: has two rows for {twice}; keep one")
    known = [places[name] for name in train if name in places]
    columns, values = [], []
    for name, column in cells.items():
        numbers = _numbers(column)
        if numbers is None:
            choices = sorted(set(column))
            if len(choices) > MOST_CHOICES:
                raise UserError(
                    f"{path}: the column '{name}' holds {len(choices)} different words, and at most {MOST_CHOICES} "
                    "can be told apart; leave it out, or write numbers"
                )
            places_of = {choice: float(number) for number, choice in enumerate(choices)}
            values.append(torch.tensor([places_of[cell] for cell in column]))
            columns.append(Column(name, tuple(choices)))
        else:
            seen = numbers[known]
            mean = seen[seen.isfinite()].mean() if seen.isfinite().any() else torch.tensor(0.0)
            values.append(torch.where(numbers.isfinite(), numbers, mean))
            columns.append(Column(name))
    rows = torch.stack(values, dim=1).float() if lines else torch.zeros(0, len(heads) - 1)
    return Table(tuple(columns), rows, places)


def _numbers(cells: Sequence[str]) -> Tensor | None:
    """A column as numbers, NaN where a cell is empty; None if a cell is no finite number, or all are empty."""
    try:
        values = [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return None
    finite = [math.isfinite(value) for value, cell in zip(values, cells, strict=True) if cell]
    return torch.tensor(values, dtype=torch.float64) if finite and all(finite) else None
