"""`pinakes compare`: methods against each other on one data set."""

from pathlib import Path
from typing import Annotated

import typer

import pinakes
from pinakes.cli import completion
from pinakes.cli.console import kept_clear, note, print_error, print_json, print_rich, shows_progress
from pinakes.cli.group import FAILED
from pinakes.cli.parameters import (
    LOADERS,
    AsJson,
    Backbone,
    Clip,
    Data,
    Device,
    Epochs,
    FitBatchSize,
    FitPrecision,
    Size,
    SkipBad,
    Steps,
    TimeLimit,
    Workers,
    pixels,
)
from pinakes.lab.subject import subject as find_subject


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "compare", epilog="Example: pinakes compare anomaly --data parts/ --size 128 --out runs/parts"
    )(compare)


def compare(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="The task, such as anomaly, or a shelf: its methods of the task that most of them have.",
            autocompletion=completion.subjects,
        ),
    ],
    data: Data,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B|all",
            help="Methods with commas between, or all.",
            autocompletion=completion.slug_list,
        ),
    ] = "all",
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Fits of each method, with seeds 0 to N-1.")
    ] = 3,
    size: Size = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: FitBatchSize = None,
    time_limit: TimeLimit = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SLUG.NAME=VALUE",
            help="An option of one method, or with all.NAME=VALUE of every one that has it; may be repeated.",
            autocompletion=completion.settings_of_methods,
        ),
    ] = None,
    backbone: Backbone = None,
    device: Device = "auto",
    precision: FitPrecision = "32",
    clip: Clip = None,
    workers: Workers = LOADERS,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; runs/SUBJECT-DATA by default.")
    ] = None,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Fit and judge methods on one data set; ends with a leaderboard and a report with pictures.

    Each finished fit is kept in the folder: the same command continues where it was stopped.
    """
    about = find_subject(subject, methods)
    shape = pixels(size)

    from pinakes.cli.options import read_settings_of_methods
    from pinakes.cli.output import check_folder

    check_folder(Path("runs") if out is None else out)
    if about.omission:
        note(about.omission, aside=json)
    named = [f"all.backbone={backbone}"] if backbone else []
    with kept_clear():
        board = pinakes.compare(
            subject,
            data,
            methods if methods == "all" else [paper.slug for paper in about.papers],
            seeds=seeds,
            size=shape,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            time_limit=time_limit,
            options=read_settings_of_methods(
                [*named, *(settings or [])], [paper.slug for paper in about.papers]
            ),
            out=out,
            device=device,
            precision=precision,
            clip=clip,
            workers=workers,
            skip_bad=skip_bad,
            progress=shows_progress(),
        )
    if json:
        print_json(board.as_json() | {"report": board.report and str(board.report)})
    else:
        print_rich(board.table())
    if board.report is not None:
        note(f"report: {board.report}", aside=json)
    for failure in board.failures:
        where = Path(board.folder or "", failure.traceback)
        print_error(f"{failure.slug}, seed {failure.seed}: {failure.reason} (the traceback is in {where})")
    if board.failures:
        raise typer.Exit(FAILED)
