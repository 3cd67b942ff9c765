"""Puts a report together from what a comparison has left in its folder."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pinakes import tasks
from pinakes.lab import comparison, notation
from pinakes.lab.cells import SCORES, CellResult, Picture, read_cell
from pinakes.lab.comparison import Comparison, Shown
from pinakes.lab.intervals import Estimate
from pinakes.lab.leaderboard import REPORT, Column, Leaderboard, Row
from pinakes.report.chart import accuracy_against_latency
from pinakes.report.confusion import Confusion, confusion, shown_at_first
from pinakes.report.headline import sentences
from pinakes.report.misses import Manner, Remark, manner_of, sides

DRAWN_METHODS = 24
LISTED_FILES = 100
TRACEBACK_LENGTH = 6000


@dataclass(frozen=True)
class Image:
    """A picture in the page: its content as a data URI, its size, its caption, and what it shows in words."""

    uri: str
    width: int
    height: int
    caption: str
    alt: str

    @property
    def columns(self) -> int:
        """How many columns it takes: pictures as wide as three, such as the way of a sample, take three."""
        return 3 if self.width >= 3 * self.height else 1


@dataclass(frozen=True)
class Drawn:
    """A method with one of its cells, whose pictures are shown."""

    slug: str
    cell: CellResult
    folder: Path


def write_report(folder: str | Path) -> Path:
    """Writes the report of a comparison, a page that needs no other file and no network.

    Args:
        folder: The comparison's folder.

    Returns:
        The page.

    Raises:
        UserError: If the folder holds no comparison, a damaged one, or cannot be written.
    """
    from pinakes.engine.runs import write_whole

    folder = Path(folder)
    board, described = Leaderboard.load(folder), Comparison.load(folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["show"] = notation
    drawn = _drawn(board, folder)
    opening, doubt = sentences(board)
    page = environment.get_template("report.html.jinja").render(
        board=board,
        described=described,
        name=_name(described),
        opening=opening,
        doubt=doubt,
        seeds=max((len(row.seeds) for row in board.rows), default=0),
        columns=_columns(board),
        confusions=_confusions(board, described, folder),
        chart=accuracy_against_latency(board),
        groups=_groups(board),
        drawn=drawn,
        undrawn=max(0, len(board.ranked) - len(drawn)),
        strips=_strips(described, drawn, folder),
        misses=_misses(described, drawn, folder),
        sheet=_image(folder, described.sheet, "contact sheet of the data"),
        listed=LISTED_FILES,
        failures=[(failure, _ending(folder / failure.traceback)) for failure in board.failures],
        cells={row.slug: _first_cell(row, folder) for row in board.ranked},
    )
    write_whole(folder / REPORT, page.encode())
    return folder / REPORT


@dataclass(frozen=True)
class TableColumn:
    """A column of figures in the leaderboard's table.

    Args:
        label: Its head.
        about: What its figures are.
        cells: For each method what is shown, half its interval, its value, and whether it is best.
        references: What is shown for each reference.
    """

    label: str
    about: str
    cells: dict[str, tuple[str, str, float, bool]]
    references: list[str]


def _columns(board: Leaderboard) -> list[TableColumn]:
    columns = [
        TableColumn(
            column.label,
            f"{column.about}; {'higher' if column.higher_is_better else 'lower'} is better",
            {row.slug: _estimate_cell(row.metric(column.name), board.best(column)) for row in board.ranked},
            [notation.number(each.metrics.get(column.name, math.nan)) for each in board.references],
        )
        for column in board.columns
    ]
    if board.shows_gain:
        columns.append(_gains(board))
    for label, about, figure, write, beside in (
        (
            "ms an image",
            "milliseconds to predict one image, in a batch",
            lambda row: row.predict_milliseconds.mean,
            notation.milliseconds,
            lambda reference: reference.predict_milliseconds,
        ),
        ("fit", "time to fit", lambda row: row.fit_seconds.mean, notation.seconds, lambda _: math.nan),
        (
            "parameters",
            "learnable numbers",
            lambda row: float(row.parameters),
            notation.count,
            lambda reference: float(reference.parameters),
        ),
        (
            "size",
            "weights and buffers on disk",
            lambda row: float(row.state_bytes),
            notation.size,
            lambda reference: float(reference.state_bytes),
        ),
    ):
        values = {row.slug: figure(row) for row in board.ranked}
        best = min((value for value in values.values() if math.isfinite(value)), default=math.nan)
        columns.append(
            TableColumn(
                label,
                f"{about}; lower is better",
                {slug: (write(value), "", value, value == best) for slug, value in values.items()},
                [
                    notation.MISSING if each.error or math.isnan(beside(each)) else write(beside(each))
                    for each in board.references
                ],
            )
        )
    return columns


def _estimate_cell(found: Estimate, best: float) -> tuple[str, str, float, bool]:
    mean, _, half = notation.estimate(found).partition(" ± ")
    return mean, half, found.mean, found.mean == best


def _gains(board: Leaderboard) -> TableColumn:
    found = {row.slug: row.gain(board.headline) for row in board.ranked}
    best = max(each.mean for each in found.values() if each.finite)
    return TableColumn(
        "gain",
        f"{board.headline.label} against that of the same network before it learnt; higher is better",
        {slug: _estimate_cell(each, best) for slug, each in found.items()},
        [notation.MISSING] * len(board.references),
    )


@dataclass(frozen=True)
class Heat:
    """A metric by group: for each row and group what is shown and how good it is from 0 to 1."""

    column: Column
    groups: list[tuple[str, str]]
    cells: dict[str, list[tuple[str, float]]]


def _groups(board: Leaderboard) -> Heat | None:
    names = list(dict.fromkeys(group for row in board.ranked for group in row.groups))
    if not names:
        return None
    column = _column_of_groups(board)
    if column is None:
        return None
    found = {
        row.slug: [row.groups[group].get(column.name) if group in row.groups else None for group in names]
        for row in board.ranked
    }
    means = [
        cell.mean
        for cells in found.values()
        for cell in cells
        if cell is not None and math.isfinite(cell.mean)
    ]
    low, high = (min(means), max(means)) if means else (0.0, 0.0)

    def goodness(mean: float) -> float:
        share = (mean - low) / (high - low) if high > low else 1.0
        return share if column.higher_is_better else 1 - share

    return Heat(
        column,
        [(group, _group_size(board, group)) for group in names],
        {
            slug: [
                (notation.MISSING, 0.0)
                if cell is None or not math.isfinite(cell.mean)
                else (notation.number(cell.mean), goodness(cell.mean))
                for cell in cells
            ]
            for slug, cells in found.items()
        },
    )


def _column_of_groups(board: Leaderboard) -> Column | None:
    """The headline if groups have it, else a metric that the task states by group alone, else any that they have."""
    known = {metric for row in board.ranked for group in row.groups.values() for metric in group}
    overall = {column.name for column in board.columns}
    by_group_alone = [
        Column(metric.name, metric.label, metric.about, metric.higher_is_better)
        for metric in tasks.get(board.task).metrics
        if metric.name not in overall
    ]
    choices = [board.headline, *by_group_alone, *board.columns]
    return next((column for column in choices if column.name in known), None)


def _group_size(board: Leaderboard, group: str) -> str:
    sizes = [
        row.groups[group]["images"].mean for row in board.ranked if "images" in row.groups.get(group, {})
    ]
    return f"{sizes[0]:.0f} image{'s' * (sizes[0] != 1)}" if sizes else ""


def _name(described: Comparison) -> str:
    words = described.identity.partition("?")[0]
    return words.rstrip("/").replace("\\", "/").rpartition("/")[2] or words


def _first_cell(row: Row, folder: Path) -> CellResult | None:
    return read_cell(folder / "cells" / row.slug / f"seed-{row.seeds[0]}")


def _drawn(board: Leaderboard, folder: Path) -> list[Drawn]:
    found = [(row, _first_cell(row, folder)) for row in board.ranked]
    return [
        Drawn(row.slug, cell, folder / "cells" / row.slug / f"seed-{cell.seed}")
        for row, cell in found
        if cell is not None and cell.pictures
    ][:DRAWN_METHODS]


def _strips(
    described: Comparison, drawn: Sequence[Drawn], folder: Path
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The shown test samples kind by kind, each with its own pictures and those of every method."""
    strips: dict[str, list[dict[str, Any]]] = {}
    for sample in described.shown:
        alt = f"{sample.group} test image {sample.name}".strip()
        own = [_image(folder, picture, alt) for picture in sample.pictures]
        methods = [
            (each.slug, [_image(each.folder, picture, f"{each.slug} on {alt}") for picture in pictures])
            for each in drawn
            if (pictures := each.cell.pictures.get(sample.index))
        ]
        columns = sum(image.columns for images in (own, *(found for _, found in methods)) for image in images)
        strips.setdefault(sample.group, []).append(
            {"name": sample.name, "sample": own, "methods": methods, "columns": columns}
        )
    return list(strips.items())


@dataclass(frozen=True)
class Misses:
    """The images that each method is most wrong and most right about, with what is meant by that."""

    manner: Manner
    methods: list[dict[str, Any]]


def _misses(described: Comparison, drawn: Sequence[Drawn], folder: Path) -> Misses | None:
    """For each method the shown images that it is most wrong and most right about."""
    task, truth = tasks.get(described.task), _truth(folder)
    manner = manner_of(task)
    if manner is None:
        return None
    shown = {sample.index: sample for sample in described.shown}
    found = []
    for each in drawn:
        pictured = [index for index in shown if index in each.cell.pictures]
        both = sides(task, truth, _scores(each.folder), pictured, described.data["classes"])
        if both is None:
            continue

        def figure(remark: Remark, method: Drawn = each) -> dict[str, Any]:
            sample: Shown = shown[remark.index]
            alt = f"{method.slug} on {sample.group} test image {sample.name}"
            beside = sample.pictures[:1] if manner.beside else ()
            drawn_by_method = method.cell.pictures[remark.index][:1]
            return {
                "images": [_image(folder, picture, sample.name) for picture in beside]
                + [_image(method.folder, picture, alt) for picture in drawn_by_method],
                "group": sample.group,
                "words": remark.words,
            }

        found.append(
            {
                "slug": each.slug,
                "wrong": [figure(remark) for remark in both.wrong],
                "right": [figure(remark) for remark in both.right],
            }
        )
    return Misses(manner, found) if found else None


@dataclass(frozen=True)
class Confusions:
    """What each method named the samples of each class, the best method first; those of `folded` are not open."""

    shown: list[tuple[str, Confusion]]
    folded: list[tuple[str, Confusion]]


def _confusions(board: Leaderboard, described: Comparison, folder: Path) -> Confusions | None:
    fields, classes = tasks.get(described.task).confusion, described.data["classes"]
    if fields is None or len(classes) < 2:
        return None
    truth, found = _truth(folder), []
    for row in board.ranked:
        scores = _scores(folder / "cells" / row.slug / f"seed-{row.seeds[0]}")
        counts = confusion(truth, scores, fields, classes)
        if counts is not None:
            found.append((row.slug, counts))
    count = shown_at_first(len(classes), DRAWN_METHODS)
    return Confusions(found[:count], found[count:]) if found else None


def _truth(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / comparison.TRUTH).read_text()))


def _scores(cell: Path) -> dict[str, Any]:
    return dict(json.loads((cell / SCORES).read_text()))


def _image(folder: Path, picture: Picture, alt: str) -> Image:
    content = base64.b64encode((folder / picture.file).read_bytes()).decode()
    about = f"{alt}: {picture.caption}" if picture.caption else alt
    return Image(f"data:image/webp;base64,{content}", picture.width, picture.height, picture.caption, about)


def _ending(path: Path) -> str:
    return path.read_text()[-TRACEBACK_LENGTH:] if path.is_file() else ""
