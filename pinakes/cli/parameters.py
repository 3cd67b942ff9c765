"""Arguments and options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli import completion

Slug = Annotated[
    str,
    typer.Argument(
        metavar="SLUG", help="The method, as pinakes list names it.", autocompletion=completion.slugs
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that fit wrote.")]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="SPEC",
        help="A folder, a built-in set (textures, faces, digits), or SCHEME:PATH?key=value.",
        autocompletion=completion.specs,
    ),
]
Size = Annotated[
    str | None, typer.Option("--size", metavar="N", help="Side of the images in pixels, or HEIGHTxWIDTH.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out files that cannot be used, and list them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.")]
BatchSize = Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Images at a time.")]
LOADERS = min(8, max(1, (os.cpu_count() or 1) // 2))
"""Processes that load images where the user does not say."""

Workers = Annotated[
    int,
    typer.Option("--workers", metavar="N", min=0, help="Processes that load images; 0 loads in this one."),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", metavar="N", help="Passes over the training images; methods have a default."),
]
Steps = Annotated[
    int | None, typer.Option("--steps", metavar="N", help="Optimiser steps, instead of --epochs.")
]
FitBatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Images a step, on each device.")
]
FitPrecision = Annotated[str, typer.Option("--precision", metavar="P", help="32, bf16, 16 or 64.")]
Clip = Annotated[float | None, typer.Option("--clip", metavar="X", help="Largest norm of the gradient.")]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit", metavar="S", help="Stop a fit after S seconds.")
]


def pixels(size: str | None) -> tuple[int, int] | None:
    """(height, width) from the words of `--size`."""
    from pinakes.data.spec import to_size

    return None if size is None else to_size("--size", size)


Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The network that methods build on: timm/NAME, pinakes/NAME, or the run folder of a pretrained encoder; "
        "short for --set backbone=NAME.",
    ),
]
