"""What `distill` made: the student beside its teacher, and what came of each method."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from pinakes import tasks
from pinakes.lab import notation
from pinakes.lab.intervals import or_none

if TYPE_CHECKING:
    from pinakes.engine.export import Exported
    from pinakes.method import Method

TASK = "classification"
BATCHES = (1, 16)
"""Images at a time for which latency is measured."""


@dataclass(frozen=True)
class Candidate:
    """What came of one method.

    Args:
        slug: The method.
        value: The headline metric on the images that the choice is made on; NaN with one method, or without a result.
        fit_seconds: How long the fit took, with the teacher's where there was none yet.
        folder: Its run folder.
        error: Why it failed, in one line; empty if it did not.
    """

    slug: str
    value: float
    fit_seconds: float
    folder: Path
    error: str = ""


@dataclass(frozen=True)
class Figures:
    """What a network is worth on the test images, and what it costs.

    Args:
        metrics: The metrics of the task by name.
        parameters: How many learnable numbers it has.
        state_bytes: What weights and buffers weigh.
        milliseconds: How long one image takes, by the number of images in a batch; the median.
    """

    metrics: Mapping[str, float]
    parameters: int
    state_bytes: int
    milliseconds: Mapping[int, float]

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; None stands for NaN."""
        return asdict(self) | {
            "metrics": {name: or_none(value) for name, value in self.metrics.items()},
            "milliseconds": {str(batch): or_none(value) for batch, value in self.milliseconds.items()},
        }


@dataclass(frozen=True)
class Distilled:
    """What `distill` made.

    Args:
        slug: The method that taught the student.
        method: The student, fitted.
        folder: The student's run folder.
        teacher: The figures of the teacher.
        student: Those of the student.
        candidates: What came of each method.
        choice: On which images the method was chosen; empty with one method.
        exported: The student as a graph, with what it says of itself beside it; None if there is none.
        obstacle: Why there is none; empty if there is one or none was wanted.
    """

    slug: str
    method: "Method"
    folder: Path
    teacher: Figures
    student: Figures
    candidates: tuple[Candidate, ...]
    choice: str = ""
    exported: "Exported | None" = None
    obstacle: str = ""

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """What is compared, the teacher's figure and the student's."""
        for metric in tasks.get(TASK).metrics:
            if metric.name in self.student.metrics:
                yield metric.label, self.teacher.metrics[metric.name], self.student.metrics[metric.name]
        yield "size (MB)", self.teacher.state_bytes / 1e6, self.student.state_bytes / 1e6
        yield "parameters", float(self.teacher.parameters), float(self.student.parameters)
        for batch in BATCHES:
            about = f"ms an image, batch of {batch}"
            yield about, self.teacher.milliseconds[batch], self.student.milliseconds[batch]

    def table(self) -> Table:
        """Teacher and student side by side, for the terminal."""
        table = Table(box=box.SIMPLE_HEAD, title=f"taught by {self.slug}", title_justify="left")
        table.add_column("")
        for head in ("teacher", "student", "student / teacher"):
            table.add_column(head, justify="right")
        for about, teacher, student in self.rows():
            write = _writer(about)
            ratio = student / teacher if teacher else math.nan
            table.add_row(about, write(teacher), write(student), notation.number(ratio))
        return table

    def candidate_table(self) -> Table:
        """The methods, the best first, for the terminal."""
        headline = tasks.get(TASK).headline
        sign = -1 if headline.higher_is_better else 1
        table = Table(box=box.SIMPLE_HEAD, title=f"chosen on {self.choice}", title_justify="left")
        table.add_column("method")
        table.add_column(headline.label, justify="right")
        table.add_column("fit", justify="right")
        table.add_column("")
        for each in sorted(self.candidates, key=lambda c: (math.isnan(c.value), sign * c.value)):
            took = notation.MISSING if each.error else notation.seconds(each.fit_seconds)
            table.add_row(each.slug, notation.number(each.value), took, each.error)
        return table

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values, without the method itself; None stands for NaN."""
        exported = self.exported
        return {
            "method": self.slug,
            "folder": str(self.folder),
            "teacher": self.teacher.as_json(),
            "student": self.student.as_json(),
            "candidates": [
                asdict(each) | {"folder": str(each.folder), "value": or_none(each.value)}
                for each in self.candidates
            ],
            "choice": self.choice,
            "graph": None if exported is None else str(exported.file),
            "description": None if exported is None else str(exported.description),
            "obstacle": self.obstacle,
        }


def _writer(about: str) -> Any:
    if about.startswith("ms"):
        return notation.milliseconds
    return notation.count if about == "parameters" else notation.number
