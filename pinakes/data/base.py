"""What every data source gives: a `TaskData` of three torch data sets of dicts, and what was recognised."""

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Sample = dict[str, Any]
"""One sample: tensors, numbers and strings under the names that its task states ("image", "label", "mask", ...)."""


@runtime_checkable
class SampleSet(Protocol):
    """A torch map-style data set of `Sample` dicts; every torch `Dataset` with a length is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Column:
    """A column of a table that has a row for each image.

    Args:
        name: Its heading.
        choices: What its numbers stand for, from 0; empty where they are quantities.
    """

    name: str
    choices: tuple[str, ...] = ()

    def say(self, value: float) -> str:
        """A value in words.

        Example:
            >>> Column("colour", ("red", "blue")).say(1), Column("width").say(0.25)
            ('colour blue', 'width 0.25')
        """
        return f"{self.name} {self.choices[int(value)] if self.choices else f'{value:.3g}'}"


@dataclass(frozen=True)
class DataInfo:
    """What a method must know of its data before its networks can be built; kept beside saved weights.

    Args:
        channels: Channels of an image, 1 or 3 for photographs.
        size: Height and width of an image in pixels.
        classes: Names of the classes, in the order of the integer labels; empty where there are none.
        columns: Of the table, in the order of a row's numbers; empty where there is none.
    """

    channels: int = 3
    size: tuple[int, int] = (64, 64)
    classes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; columns only where there are any."""
        values = asdict(self)
        return values if self.columns else {name: values[name] for name in values if name != "columns"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DataInfo":
        """The inverse of `as_json`."""
        height, width = values["size"]
        columns = tuple(Column(each["name"], tuple(each["choices"])) for each in values.get("columns", ()))
        return cls(int(values["channels"]), (int(height), int(width)), tuple(values["classes"]), columns)


@dataclass(frozen=True)
class Problem:
    """A file that could not be used and was left out, with the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class TaskData:
    """Data ready for a task.

    Args:
        spec: The words that load it again, such as "mvtec:parts?size=128".
        layout: What was recognised, in words a user understands.
        train: Samples to fit on.
        val: Samples for choices made during fitting, or None where the layout has no such part.
        test: Samples to judge on, or None for data that only serves fitting or predicting.
        info: Channels, size and classes.
        skipped: Files that were left out, and why.
        wishes: Options of the spec that a task reads, not a source: {"seen": "crack"}.
        task: Name of the task that the data has been arranged for, if any.
    """

    spec: str
    layout: str
    train: SampleSet
    val: SampleSet | None = None
    test: SampleSet | None = None
    info: DataInfo = field(default_factory=DataInfo)
    skipped: tuple[Problem, ...] = ()
    wishes: Mapping[str, str] = field(default_factory=dict)
    task: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the integer labels."""
        return self.info.classes

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.info.channels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        return self.info.size

    def splits(self) -> Iterator[tuple[str, SampleSet]]:
        """The parts that exist, by name."""
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            if part is not None:
                yield name, part

    def _repr_html_(self) -> str:
        # imported by name: how a thing is shown in a notebook is not code that its results depend on
        html: str = importlib.import_module("pinakes.report.notebook").of_data(self)
        return html

    def fingerprint(self) -> str:
        """A short hash that changes when the data does: spec, shape and number of samples, and, for data sets
        that state it (`fingerprint()` of their own: file names, sizes and times), what they hold."""
        parts = {name: getattr(part, "fingerprint", lambda: "")() for name, part in self.splits()}
        lengths = {name: len(part) for name, part in self.splits()}
        text = json.dumps([self.spec, self.info.as_json(), lengths, parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
