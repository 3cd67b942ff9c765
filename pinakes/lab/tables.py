"""A leaderboard as a table, for the terminal and for a notebook."""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from pinakes.lab import notation

if TYPE_CHECKING:
    from pinakes.lab.leaderboard import Leaderboard, Reference, Row

PADDING = 3


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]

    @property
    def width(self) -> int:
        return PADDING + max(len(line) for cell in (self.head, *self.cells) for line in cell.split("\n"))


def for_terminal(board: "Leaderboard", width: int) -> Table:
    """The leaderboard in at most `width` characters a line.

    Where they are few, the intervals of all metrics but the headline go first, then size, fit and seeds, then the
    gain, then the metrics from the last; method, headline and latency always stay.
    """
    columns = _columns(board, intervals=len(board.columns))
    metrics = len(board.columns)
    if _width(columns) > width:
        columns = _columns(board, intervals=1)
    spare = ["size", "fit", "seeds", "gain", *(column.head for column in columns[metrics:1:-1])]
    while spare and _width(columns) > width:
        columns = [column for column in columns if column.head != spare[0]]
        spare = spare[1:]
    table = Table(box=box.SIMPLE_HEAD, caption=note(board), caption_justify="left", title_justify="left")
    table.title = f"{board.task} on {board.data}"
    for position, column in enumerate(columns):
        table.add_column(column.head, justify="left" if position == 0 else "right", no_wrap=True)
    for row in range(len(board.rows) + len(board.references)):
        if board.references and row == len(board.rows):
            table.add_section()
        table.add_row(*(column.cells[row] for column in columns))
    return table


def for_notebook(board: "Leaderboard") -> str:
    """The leaderboard as an HTML table."""
    columns = _columns(board, intervals=len(board.columns))
    head = "".join(f"<th>{html.escape(column.head)}</th>" for column in columns)
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(column.cells[row])}</td>" for column in columns) + "</tr>"
        for row in range(len(board.rows) + len(board.references))
    ]
    methods, references = "".join(rows[: len(board.rows)]), "".join(rows[len(board.rows) :])
    apart = f"<tbody>{references}</tbody>" if references else ""
    caption = html.escape(f"{board.task} on {board.data}: {note(board)}")
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{methods}</tbody>{apart}</table>"


def note(board: "Leaderboard") -> str:
    """What the figures are, and what is missing."""
    if board.all_failed:
        return f"every cell failed; the first: {board.failures[0].reason}" if board.failures else "no cells"
    seeds = max(len(row.seeds) for row in board.rows)
    what = f"mean ± 95 % interval over {seeds} seeds" if seeds > 1 else "one seed, so without intervals"
    failed = len(board.failures)
    if failed:
        what += f"; {failed} cell{'s' * (failed != 1)} failed"
    if board.shows_gain:
        what += f"; gain: {board.headline.label} against the same network before it learnt"
    return f"{what}; below the line, not ranked: what methods learnt from" if board.references else what


def _width(columns: list[_Column]) -> int:
    return 1 + sum(column.width for column in columns)


def _columns(board: "Leaderboard", *, intervals: int) -> list[_Column]:
    def metric(row: "Row", position: int) -> str:
        found = row.metric(board.columns[position].name)
        return notation.estimate(found) if position < intervals else notation.number(found.mean)

    def seeds(row: "Row") -> str:
        return f"{len(row.seeds)} of {len(row.seeds) + row.failures}" if row.failures else str(len(row.seeds))

    def column(
        head: str, figure: Callable[["Row"], str], reference: Callable[["Reference"], str] = lambda _: ""
    ) -> _Column:
        cells = [figure(row) if row.seeds else notation.MISSING for row in board.rows]
        return _Column(head, [*cells, *(reference(each) for each in board.references)])

    named = [row.slug for row in board.rows] + [each.label for each in board.references]
    return [
        _Column("method", named),
        *(
            column(
                each.label.replace(" ", "\n"),
                lambda row, position=position: metric(row, position),  # type: ignore[misc]  # mypy infers no defaults
                lambda reference, name=each.name: notation.number(reference.metrics.get(name, math.nan)),  # type: ignore[misc]  # as above
            )
            for position, each in enumerate(board.columns)
        ),
        *(
            [column("gain", lambda row: notation.number(row.gain(board.headline).mean))]
            if board.shows_gain
            else []
        ),
        column(
            "ms an\nimage",
            lambda row: notation.milliseconds(row.predict_milliseconds.mean),
            lambda reference: notation.milliseconds(reference.predict_milliseconds),
        ),
        column("fit", lambda row: notation.seconds(row.fit_seconds.mean)),
        column(
            "size",
            lambda row: notation.size(row.state_bytes),
            lambda reference: notation.size(reference.state_bytes),
        ),
        _Column("seeds", [seeds(row) for row in board.rows] + [""] * len(board.references)),
    ]
