"""`pinakes evaluate` and `predict`: what a fitted method is worth, and what it says of images."""

from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli.console import (
    figure,
    kept_clear,
    note,
    note_data,
    note_skipped,
    print_json,
    print_table,
    shows_progress,
)
from pinakes.cli.parameters import LOADERS, AsJson, BatchSize, Data, Device, Run, SkipBad, Workers
from pinakes.cli.usage import INSTEAD, use_of
from pinakes.errors import UserError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("evaluate", epilog="Example: pinakes evaluate runs/parts --data parts/ --json")(evaluate)
    app.command("predict", epilog="Example: pinakes predict runs/parts new/ photo.png --out found")(predict)


def evaluate(
    run: Run,
    data: Data,
    split: Annotated[str, typer.Option(help="Which part to judge on: test, val or train.")] = "test",
    batch_size: BatchSize = 32,
    workers: Workers = LOADERS,
    device: Device = "auto",
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Judge a fitted method on labelled images."""
    import pinakes

    with kept_clear():
        method = pinakes.load(run, device=device)
        loaded = pinakes.load_data(data, task=method.task, size=method.info.size, skip_bad=skip_bad)
    note_data(loaded, aside=json)
    with kept_clear():
        result = method.evaluate_fully(loaded, split=split, batch_size=batch_size, workers=workers)
    if json:
        left_out = [{"path": str(each.path), "reason": each.reason} for each in loaded.skipped]
        print_json(
            {"metrics": result.metrics, "groups": result.groups, "data": loaded.spec, "skipped": left_out}
        )
        return
    stated = {metric.name: metric for metric in method.task.metrics}
    rows = [(stated[name].label, figure(value), stated[name].about) for name, value in result.metrics.items()]
    print_table(("metric", "value", "what it is"), rows)
    if result.groups:
        names = list(dict.fromkeys(name for values in result.groups.values() for name in values))
        print_table(
            ("group", *(stated[name].label if name in stated else name for name in names)),
            [
                (group, *(figure(values.get(name, float("nan"))) for name in names))
                for group, values in result.groups.items()
            ],
        )


def predict(
    run: Run,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Image files and folders of images.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write; RUN/predictions by default.")
    ] = None,
    batch_size: BatchSize = 32,
    workers: Workers = LOADERS,
    device: Device = "auto",
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile", metavar="N", min=1, help="Answer large images in squares of N of their own pixels."
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            "--overlap", metavar="M", min=0, help="Pixels that neighbouring tiles share; a quarter of --tile."
        ),
    ] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Ask a fitted method about images; writes predictions.jsonl and a picture for each image."""
    import pinakes
    from pinakes.cli.output import check_folder
    from pinakes.report.predictions import write_predictions

    with kept_clear():
        method = pinakes.load(run, device=device)
        name = method.task.name
        if name in INSTEAD:
            raise UserError(f"run: a method for {name} cannot answer images alone; use {use_of(name, run)}")
        written = write_predictions(
            method,
            inputs,
            check_folder(run / "predictions" if out is None else out),
            skip_bad=skip_bad,
            batch_size=batch_size,
            workers=workers,
            progress=shows_progress(),
            tile=tile,
            overlap=overlap,
        )
    note_skipped(written.skipped)
    note(f"{written.count} predictions: {written.file}")
    note(f"one picture an image: {written.pictures}")
