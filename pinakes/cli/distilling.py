"""`pinakes distill`: a small network that learns from a large one, ready for use elsewhere."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli import completion
from pinakes.cli.console import (
    kept_clear,
    note,
    note_data,
    print_error,
    print_json,
    print_rich,
    shows_progress,
)
from pinakes.cli.group import FAILED
from pinakes.cli.parameters import (
    LOADERS,
    AsJson,
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


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(
        "distill",
        epilog="Example: pinakes distill runs/large --student pinakes/resnet8s2 --data pets/ --method all --out small",
    )(distill)


def distill(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="TEACHER",
            help="The run folder of a fitted classifier, or a backbone, which is fine-tuned on the images first.",
        ),
    ],
    student: Annotated[
        str,
        typer.Option(metavar="NAME", help="The student's backbone: pinakes/resnet8s2, timm/NAME, ..."),
    ],
    data: Data,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="A,B|all",
            help="How it is taught; of several, the best on held-out images is kept. By default, the oldest baseline.",
            autocompletion=completion.distillers,
        ),
    ] = None,
    size: Size = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: FitBatchSize = None,
    time_limit: TimeLimit = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of everything random.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SLUG.NAME=VALUE",
            help="An option of one method, or with all.NAME=VALUE of every one that has it; may be repeated.",
            autocompletion=completion.settings_of_methods,
        ),
    ] = None,
    device: Device = "auto",
    precision: FitPrecision = "32",
    clip: Clip = None,
    workers: Workers = LOADERS,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder; runs/distilled-DATA by default.")
    ] = None,
    export: Annotated[bool, typer.Option(help="Whether to write the student as ONNX as well.")] = True,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Teach a small network what a large one knows; ends with both side by side, and the student as ONNX.

    The student's folder is a run like any other. The same command continues where it was stopped.
    """
    shape = pixels(size)

    import pinakes
    from pinakes.cli.options import read_settings_of_methods
    from pinakes.cli.output import check_folder
    from pinakes.lab import distilling
    from pinakes.lab.describing import data_name
    from pinakes.lab.distilled import TASK

    with kept_clear():
        slugs = [paper.slug for paper in distilling.chosen_distillers(method)]
        shape = shape or distilling.teacher_size(teacher)
        loaded = pinakes.load_data(data, task=TASK, size=shape, skip_bad=skip_bad)
    folder = check_folder(out or Path("runs", f"distilled-{data_name(loaded.spec)}"))
    note_data(loaded, aside=json)
    if len(slugs) > 1:
        note(f"{len(slugs)} methods; the best is chosen on {distilling.divided(loaded)[1]}", aside=json)
    with kept_clear():
        made = distilling.distill(
            teacher,
            loaded,
            student=student,
            methods=slugs,
            seed=seed,
            options=read_settings_of_methods(settings or [], slugs),
            out=folder,
            device=device,
            export=export,
            progress=shows_progress(),
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            time_limit=time_limit,
            precision=precision,
            clip=clip,
            workers=workers,
        )
    if json:
        print_json(made.as_json())
    else:
        if made.choice:
            print_rich(made.candidate_table())
        print_rich(made.table())
    run = shlex.quote(str(made.folder))
    note(f"student: {made.folder}", aside=json)
    note(f"use it:  pinakes predict {run} IMAGES", aside=json)
    if made.exported is not None:
        note(f"graph:   {made.exported.file}, described in {made.exported.description}", aside=json)
    for each in made.candidates:
        if each.error:
            print_error(f"{each.slug}: {each.error}")
    if made.obstacle:
        print_error(f"not exported: {made.obstacle}; the run is kept, and pinakes export {run} tries again")
    if made.obstacle or any(each.error for each in made.candidates):
        raise typer.Exit(FAILED)
