"""The outcome of a comparison: methods in order of the headline metric, with intervals over seeds."""

import io
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions
from rich.table import Table

from pinakes.errors import UserError
from pinakes.lab import tables
from pinakes.lab.intervals import Estimate, or_nan, or_none

FILE = "leaderboard.json"
REPORT = "report.html"
WIDE = 160


@dataclass(frozen=True)
class Column:
    """A metric of the leaderboard: its name in results, its label for people, and which way is better."""

    name: str
    label: str
    about: str
    higher_is_better: bool = True


@dataclass(frozen=True)
class Failure:
    """A cell that gave no result.

    Args:
        slug: The method.
        seed: The seed.
        reason: Why, in one line.
        traceback: File with the whole error, relative to the comparison's folder.
    """

    slug: str
    seed: int
    reason: str
    traceback: str


@dataclass(frozen=True)
class Row:
    """One method over its seeds.

    Args:
        slug: The method.
        title: The paper's title.
        citation: Authors and venue.
        url: Where the paper is found.
        seeds: The seeds that gave a result; the values of every estimate are in this order.
        metrics: Each metric over the seeds.
        groups: The same for parts of the test data.
        untrained: The metrics of the method before it learnt, for tasks whose methods say something then.
        fit_seconds: How long fitting took.
        predict_milliseconds: How long one image takes to predict, in a batch.
        parameters: How many learnable numbers the method has.
        state_bytes: What weights and buffers weigh.
        failures: How many seeds gave no result.
    """

    slug: str
    title: str = ""
    citation: str = ""
    url: str = ""
    seeds: tuple[int, ...] = ()
    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    untrained: Mapping[str, Estimate] = field(default_factory=dict)
    fit_seconds: Estimate = field(default_factory=Estimate)
    predict_milliseconds: Estimate = field(default_factory=Estimate)
    parameters: int = 0
    state_bytes: int = 0
    failures: int = 0

    def metric(self, name: str) -> Estimate:
        """The estimate of a metric; without values where the data does not allow it."""
        return self.metrics.get(name, Estimate())

    def gain(self, column: Column) -> Estimate:
        """By how much a metric is better than before the method learnt, seed by seed; without values if not judged."""
        before = self.untrained.get(column.name)
        if before is None:
            return Estimate()
        sign = 1 if column.higher_is_better else -1
        both = zip(self.metric(column.name).values, before.values, strict=True)
        return Estimate(tuple(sign * (after - earlier) for after, earlier in both))

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        plain = {name: getattr(self, name) for name in ("slug", "title", "citation", "url", "seeds")}
        sizes = {name: getattr(self, name) for name in ("parameters", "state_bytes", "failures")}
        return {
            **plain,
            "metrics": {name: found.as_json() for name, found in self.metrics.items()},
            "groups": {
                group: {name: found.as_json() for name, found in metrics.items()}
                for group, metrics in self.groups.items()
            },
            "untrained": {name: found.as_json() for name, found in self.untrained.items()},
            "fit_seconds": self.fit_seconds.as_json(),
            "predict_milliseconds": self.predict_milliseconds.as_json(),
            **sizes,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Row":
        """The inverse of `as_json`."""
        changed = {
            "seeds": tuple(values["seeds"]),
            "metrics": {name: Estimate.from_json(found) for name, found in values["metrics"].items()},
            "groups": {
                group: {name: Estimate.from_json(found) for name, found in metrics.items()}
                for group, metrics in values["groups"].items()
            },
            # leaderboards of earlier versions have none
            "untrained": {
                name: Estimate.from_json(found) for name, found in values.get("untrained", {}).items()
            },
            "fit_seconds": Estimate.from_json(values["fit_seconds"]),
            "predict_milliseconds": Estimate.from_json(values["predict_milliseconds"]),
        }
        return cls(**{**values, **changed})


@dataclass(frozen=True)
class Reference:
    """A fitted method that compared ones learnt from: it stands beside them and is not ranked.

    Args:
        name: What it is to them, "teacher".
        what: What was given for it, such as the name of a backbone or a run folder.
        methods: The methods that learnt from it.
        metrics: The metrics of the task by name.
        groups: The same for parts of the test data.
        predict_milliseconds: How long one image takes to predict, in a batch.
        parameters: How many learnable numbers it has.
        state_bytes: What weights and buffers weigh.
        error: Why it could not be judged; empty if it could.
    """

    name: str
    what: str
    methods: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    predict_milliseconds: float = math.nan
    parameters: int = 0
    state_bytes: int = 0
    error: str = ""

    @property
    def label(self) -> str:
        """What it is called in tables."""
        return f"{self.name}: {self.what}"

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; None stands for NaN."""
        return asdict(self) | {
            "metrics": {name: or_none(value) for name, value in self.metrics.items()},
            "groups": {
                group: {name: or_none(value) for name, value in metrics.items()}
                for group, metrics in self.groups.items()
            },
            "predict_milliseconds": or_none(self.predict_milliseconds),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reference":
        """The inverse of `as_json`."""
        changed = {
            "methods": tuple(values["methods"]),
            "metrics": _with_nan(values["metrics"]),
            "groups": {group: _with_nan(metrics) for group, metrics in values["groups"].items()},
            "predict_milliseconds": or_nan([values["predict_milliseconds"]])[0],
        }
        return cls(**{**values, **changed})


def _with_nan(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return dict(zip(metrics, or_nan(metrics.values()), strict=True))


@dataclass(frozen=True, repr=False)
class Leaderboard:
    """Methods in order of the headline metric, the best first; those without a result last.

    Args:
        task: Name of the task.
        data: The spec that loads the data again.
        columns: The metrics of the task that the data allows; the first is the headline.
        rows: One a method.
        failures: The cells that gave no result.
        folder: The comparison's folder, or None.
        references: Fitted methods that compared ones learnt from, such as a teacher; they are not ranked.
    """

    task: str
    data: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    failures: tuple[Failure, ...] = ()
    folder: Path | None = None
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(sorted(self.rows, key=self._order)))

    @property
    def headline(self) -> Column:
        """The metric by which the rows are sorted."""
        return self.columns[0]

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The rows with a result."""
        return tuple(row for row in self.rows if row.seeds)

    @property
    def all_failed(self) -> bool:
        """Whether not one cell gave a result."""
        return not self.ranked

    @property
    def report(self) -> Path | None:
        """The report, where it has been written."""
        path = None if self.folder is None else self.folder / REPORT
        return path if path is not None and path.is_file() else None

    def lead(self) -> Estimate | None:
        """By how much the first row is better than the second in the headline, seed by seed.

        The estimate is of the paired difference over the seeds that both have, positive in the first row's favour;
        None with fewer than two rows or no seed in common.
        """
        if len(self.ranked) < 2:
            return None
        first, second = (
            dict(zip(row.seeds, row.metric(self.headline.name).values, strict=True))
            for row in self.ranked[:2]
        )
        sign = 1 if self.headline.higher_is_better else -1
        both = Estimate(tuple(sign * (first[seed] - second[seed]) for seed in first if seed in second))
        return both if both.finite else None

    @property
    def shows_gain(self) -> bool:
        """Whether any method was judged in the headline before it learnt."""
        return any(row.gain(self.headline).finite for row in self.ranked)

    @property
    def lost(self) -> tuple[Row, ...]:
        """The rows whose headline is worse than before they learnt, with every seed."""
        gains = ((row, row.gain(self.headline).finite) for row in self.ranked)
        return tuple(row for row, gain in gains if gain and max(gain) < 0)

    def best(self, column: Column) -> float:
        """The best mean of a metric over all rows, or NaN."""
        means = [row.metric(column.name).mean for row in self.rows]
        finite = [mean for mean in means if math.isfinite(mean)]
        return (max if column.higher_is_better else min)(finite) if finite else math.nan

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; None stands for NaN and for no interval."""
        return {
            "task": self.task,
            "data": self.data,
            "columns": [asdict(column) for column in self.columns],
            "rows": [row.as_json() for row in self.rows],
            "failures": [asdict(failure) for failure in self.failures],
            "references": [reference.as_json() for reference in self.references],
        }

    def save(self, path: str | Path) -> Path:
        """Writes the leaderboard as JSON and returns the file.

        Args:
            path: The file, or an existing folder, which gets a leaderboard.json.

        Raises:
            UserError: If it cannot be written.
        """
        from pinakes.engine.runs import write_whole

        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        write_whole(file, json.dumps(self.as_json(), indent=1, allow_nan=False).encode())
        return file

    @classmethod
    def load(cls, path: str | Path) -> "Leaderboard":
        """Reads what `save` or a comparison wrote.

        Args:
            path: The file, or the folder of a comparison.

        Raises:
            UserError: If there is no leaderboard or it is damaged.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise UserError(f"{path}: holds no {FILE}; give the folder of a comparison")
        try:
            values = json.loads(file.read_text())
            return cls(
                task=values["task"],
                data=values["data"],
                columns=tuple(Column(**column) for column in values["columns"]),
                rows=tuple(Row.from_json(row) for row in values["rows"]),
                failures=tuple(Failure(**failure) for failure in values["failures"]),
                folder=file.parent,
                # leaderboards of earlier versions have none
                references=tuple(Reference.from_json(each) for each in values.get("references", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: is damaged ({error}); run the comparison again") from error

    def table(self, width: int | None = None) -> Table:
        """The leaderboard for the terminal.

        Args:
            width: How many characters fit in a line, by default those of the terminal. Where they are few, intervals
                and then columns are left out; `as_json` and the report have them all.
        """
        return tables.for_terminal(self, width or shutil.get_terminal_size().columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        yield self.table(options.max_width)

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), width=WIDE, color_system=None)
        with console.capture() as printed:
            console.print(self.table(WIDE))
        return printed.get()

    def _repr_html_(self) -> str:
        return tables.for_notebook(self)

    def _order(self, row: Row) -> tuple[bool, bool, float]:
        mean = row.metric(self.headline.name).mean
        if not math.isfinite(mean):
            return (not row.seeds, True, 0.0)
        return (not row.seeds, False, -mean if self.headline.higher_is_better else mean)
