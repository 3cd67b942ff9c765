"""`pinakes sample`: new images from a fitted method that makes images."""

from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli.console import kept_clear, note, shows_progress
from pinakes.cli.parameters import BatchSize, Device, Run


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("sample", epilog="Example: pinakes sample runs/ddpm --n 64 --out new")(sample)


def sample(
    run: Run,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder to write to; it must not hold samples yet.")
    ],
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="How many images.")] = 64,
    of: Annotated[
        str, typer.Option("--class", metavar="NAME", help="Of which class all are to be; any by default.")
    ] = "",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="The same seed gives the same images.")] = 0,
    batch_size: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """Make new images; writes a PNG for each, and all of them on one sheet."""
    import pinakes
    from pinakes.cli.output import check_folder
    from pinakes.report.samples import write_samples

    with kept_clear():
        method = pinakes.load(run, device=device)
        file = write_samples(
            method,
            check_folder(out),
            n,
            of=of,
            seed=seed,
            batch_size=batch_size,
            progress=shows_progress(),
        )
    note(f"{n} images, and all of them on one sheet: {file}")
