"""Cells of a comparison on disk: one method with one seed, what came of it, and how it is recognised again."""

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pinakes.catalogue import Paper
from pinakes.errors import UserError
from pinakes.lab.intervals import or_nan, or_none

RESULT = "cell.json"
SCORES = "scores.json"
TRACEBACK = "error.txt"
TELLING_SETTINGS = (
    "epochs",
    "steps",
    "batch_size",
    "precision",
    "clip",
    "time_limit",
    "hold_out",
    "false_alarms",
)
"""The settings of a fit that bear on its result."""


@dataclass(frozen=True)
class Cell:
    """One method with one seed: a piece of work.

    Args:
        paper: The method's entry in the catalogue.
        seed: Seed of initialisation, order and augmentation.
        options: The hyper-parameters that were given.
        settings: The settings of the fit that were given.
        key: What the finished cell is recognised by.
    """

    paper: Paper
    seed: int
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    key: str

    def folder(self, comparison: Path) -> Path:
        """Where its result lies in the folder of a comparison."""
        return comparison / "cells" / self.paper.slug / f"seed-{self.seed}"


@dataclass(frozen=True)
class Picture:
    """A picture that lies in a file.

    Args:
        file: Its path relative to the folder of the cell or comparison.
        caption: A few words under it.
        width: Its width in pixels.
        height: Its height in pixels.
    """

    file: str
    caption: str
    width: int
    height: int


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Args:
        slug: The method.
        seed: The seed.
        key: What the cell is recognised by.
        error: Why it failed, in one line; empty if it did not.
        metrics: The metrics of its task by name.
        groups: The same for parts of the test data.
        fit_seconds: How long fitting took.
        predict_milliseconds: How long one image takes to predict, in a batch.
        parameters: How many learnable numbers the method has.
        state_bytes: What weights and buffers weigh.
        device: What it ran on.
        options: Every hyper-parameter.
        settings: Every setting of the fit that bears on the result.
        pictures: Pictures of its predictions, by the index of the test sample.
    """

    slug: str
    seed: int
    key: str
    error: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fit_seconds: float = 0.0
    predict_milliseconds: float = 0.0
    parameters: int = 0
    state_bytes: int = 0
    device: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[int, tuple[Picture, ...]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; None stands for NaN."""
        return asdict(self) | {
            "metrics": _without_nan(self.metrics),
            "groups": {name: _without_nan(group) for name, group in self.groups.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CellResult":
        """The inverse of `as_json`."""
        changed = {
            "metrics": _with_nan(values["metrics"]),
            "groups": {name: _with_nan(group) for name, group in values["groups"].items()},
            "pictures": {
                int(index): tuple(Picture(**picture) for picture in pictures)
                for index, pictures in values["pictures"].items()
            },
        }
        return cls(**{**values, **changed})


def _without_nan(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: or_none(value) for name, value in metrics.items()}


def _with_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return dict(zip(metrics, or_nan(metrics.values()), strict=True))


def cell_key(paper: Paper, **conditions: Any) -> str:
    """A hash of all that bears on a cell's result: its conditions and the method's source code.

    Args:
        paper: The method's entry in the catalogue.
        **conditions: Seed, options, data, settings: anything with a `repr` that states it whole.
    """
    digest = hashlib.sha256(repr((paper.slug, sorted(conditions.items()))).encode())
    for module in (paper.module, f"pinakes.papers.{paper.shelf}.base", f"pinakes.tasks.{paper.task}"):
        found = importlib.util.find_spec(module)
        if found is not None and found.origin is not None:
            digest.update(Path(found.origin).read_bytes())
    return digest.hexdigest()[:24]


def write_cell(folder: Path, result: CellResult, files: Mapping[str, bytes]) -> None:
    """Writes a cell so that it is there whole or not at all; replaces an earlier one.

    Args:
        folder: The cell's folder.
        result: What came of it.
        files: What else belongs to it, by path relative to the folder.

    Raises:
        UserError: If the folder cannot be written.
    """
    part = folder.with_name(f".{folder.name}.part")
    text = json.dumps(result.as_json(), indent=1, allow_nan=False, default=str)
    try:
        shutil.rmtree(part, ignore_errors=True)
        for name, content in {**files, RESULT: text.encode()}.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder with out"
        ) from error


def read_cell(folder: Path) -> CellResult | None:
    """The cell that was written to a folder, or None if there is none or it is not whole."""
    try:
        result = CellResult.from_json(json.loads((folder / RESULT).read_text()))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None
    files = [TRACEBACK] if result.error else [SCORES]
    files += [picture.file for pictures in result.pictures.values() for picture in pictures]
    return result if all((folder / name).is_file() for name in files) else None
