"""`pinakes export`: a fitted method as a file for runtimes that know neither Pinakes nor Python."""

from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli.console import kept_clear, note, print_table
from pinakes.cli.parameters import Run, Size, pixels


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("export", epilog="Example: pinakes export runs/parts --to onnx --out parts.onnx")(export)


def export(
    run: Run,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="onnx or torchscript.")] = "onnx",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file to write; RUN/SLUG.onnx or RUN/SLUG.pt by default."),
    ] = None,
    size: Size = None,
) -> None:
    """Write a fitted method as one graph, ONNX or TorchScript, checked against the method itself.

    Beside it, FILE.json says what goes in and what comes out.
    """
    shape = pixels(size)

    import pinakes
    from pinakes.engine.export import MEASURE, SUFFIXES, check_format
    from pinakes.engine.runs import read_description

    file = out or run / f"{read_description(run)['method']}{SUFFIXES[check_format(to)]}"
    with kept_clear():
        method = pinakes.load(run)
        found = method.export(file, to=to, size=shape)
    rows = [
        (
            each.name,
            " x ".join(map(str, each.shape)),
            each.dtype,
            f"{each.scale:.4g}",
            f"{each.difference:.1e}",
        )
        for each in found.outputs
    ]
    print_table(("output", "shape", "type", "largest value", "difference"), rows)
    note(f"difference from the method: {MEASURE}")
    note(f"batches are answered {'image by image' if found.one_by_one else 'as a whole'}")
    note(f"graph: {found.file}")
    note(f"what goes in and comes out: {found.description}")
