"""Where the command line prints: results on standard output, notes beside them, progress on standard error."""

import contextlib
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pinakes.data.base import TaskData


def is_main_process() -> bool:
    """Whether this process speaks for all, when several train together."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def note(text: str, *, aside: bool = False) -> None:
    """Prints a line about the work: on standard output, or on standard error when that is kept for JSON."""
    if is_main_process():
        typer.echo(text, err=aside)


def note_data(data: "TaskData", *, aside: bool = False) -> None:
    """Prints what was recognised and which files were left out."""
    parts = ", ".join(f"{len(part)} {name}" for name, part in data.splits())
    height, width = data.size
    note(f"data: {data.layout}; {parts}; {height}x{width} pixels, {data.channels} channels", aside=aside)
    note_skipped(data.skipped, aside=aside)


def note_skipped(problems: Sequence[Any], *, aside: bool = False) -> None:
    """Lists files that were left out, with the reason of each."""
    for problem in problems:
        note(f"left out: {problem.path}: {problem.reason}", aside=aside)


def print_error(message: str) -> None:
    """Prints one red line on standard error, whatever line breaks the message has."""
    typer.secho(f"error: {' '.join(message.split())}", fg="red", err=True)


def print_json(value: Any) -> None:
    """Prints a value as JSON, with null for numbers that JSON has not (NaN, infinity)."""
    typer.echo(json.dumps(_finite(value), indent=2, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Prints a table as wide as the terminal allows; columns whose cells are numbers stand to the right."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title and escape(title), title_justify="left")
    for index, name in enumerate(columns):
        numbers = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(escape(name), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    print_rich(table)


def print_rich(renderable: Any) -> None:
    """Prints something that Rich draws; into a file or pipe it is given room instead of being cut."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else shutil.get_terminal_size((160, 24)).columns
    Console(width=width, highlight=False).print(renderable)


def figure(value: Any) -> str:
    """A value of a result as people read it: whole numbers whole, others to four decimals, a dash for none."""
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4f}"
    return str(value)


def shows_progress() -> bool:
    """Whether progress bars make sense: someone watches standard error."""
    return sys.stderr.isatty() and is_main_process()


@contextlib.contextmanager
def kept_clear() -> Iterator[None]:
    """Sends what libraries print while they work to standard error, so that standard output holds results only."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _is_number(cell: str) -> bool:
    return cell == "–" or cell.replace(".", "", 1).replace("-", "", 1).isdigit()
