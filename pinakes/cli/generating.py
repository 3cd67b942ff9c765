"""`pinakes sample` and `edit`: new images, and images of which a part is made anew."""

from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli.console import kept_clear, note, shows_progress
from pinakes.cli.parameters import BatchSize, Device, Run


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("sample", epilog="Example: pinakes sample runs/ddpm --n 64 --out new")(sample)
    app.command(
        "edit", epilog="Example: pinakes edit runs/repaint photo.png --mask hole.png --n 4 --out new.png"
    )(edit)


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


def edit(
    run: Run,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image.")],
    mask: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="An image of the same size, white where the other is to be made anew."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The file to write; several answers get numbers behind its name."),
    ],
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="How many answers.")] = 1,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another seed gives other answers.")] = 0,
    batch_size: BatchSize = 32,
    device: Device = "auto",
) -> None:
    """Make a part of an image anew, by a method that fills holes; shows all answers on one sheet."""
    import pinakes
    from pinakes.cli.output import check_folder
    from pinakes.report.edits import write_edits

    with kept_clear():
        method = pinakes.load(run, device=device)
        check_folder(out.parent)
        written = write_edits(
            method, image, mask, out, n=n, seed=seed, batch_size=batch_size, progress=shows_progress()
        )
    (height, width), (rows, columns) = written.size, written.filled_at
    if height > rows or width > columns:
        note(
            f"filled at the {columns}x{rows} pixels of the run and enlarged to {width}x{height}; "
            "what is new is less sharp than the rest"
        )
    files = written.files
    note(f"{len(files)} answers: {files[0]} to {files[-1].name}" if n > 1 else f"answer: {files[0]}")
    note(f"beside the image: {written.sheet}")
