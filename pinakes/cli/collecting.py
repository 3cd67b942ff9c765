"""`pinakes embed`, `duplicates` and `map`: a whole collection of images, looked at by learnt features."""

from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli.console import kept_clear, note, note_skipped, shows_progress
from pinakes.cli.parameters import LOADERS, BatchSize, Device, SkipBad, Workers

Encoder = Annotated[
    Path, typer.Argument(metavar="RUN", help="The run folder of a method of the task representation.")
]
Folder = Annotated[
    str, typer.Argument(metavar="FOLDER", help="A folder of images, or data as --data of fit takes it.")
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("embed", epilog="Example: pinakes embed runs/mae photos/ --out photos.npz")(embed)
    app.command("duplicates", epilog="Example: pinakes duplicates runs/mae photos/ --out runs/photos")(
        duplicates
    )
    app.command("map", epilog="Example: pinakes map runs/mae photos/ --out photos.html")(draw_map)


def embed(
    run: Encoder,
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .npz or .parquet.")],
    batch_size: BatchSize = 32,
    workers: Workers = LOADERS,
    device: Device = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Write the embedding of every image of a folder to one file."""
    from pinakes import collections
    from pinakes.cli.output import check_folder
    from pinakes.collections.embeddings import check_format

    with kept_clear():
        check_folder(check_format(out).parent)
        found = collections.embed(
            collections.load_encoder(run, device=device),
            folder,
            skip_bad=skip_bad,
            batch_size=batch_size,
            workers=workers,
            progress=shows_progress(),
        )
        file = collections.write_embeddings(found, out)
    note_skipped(found.images.skipped)
    note(f"data: {found.images.about}")
    note(f"embeddings, {found.embedding.shape[1]} numbers an image: {file}")


def duplicates(
    run: Encoder,
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
    threshold: Annotated[
        float | None,
        typer.Option(metavar="T", help="Cosine similarity of duplicates, up to 1; chosen from the data."),
    ] = None,
    batch_size: BatchSize = 32,
    workers: Workers = LOADERS,
    device: Device = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Find near-duplicates in a folder; writes groups as JSON and a page with pictures. Nothing is removed."""
    from pinakes import collections
    from pinakes.cli.output import check_folder
    from pinakes.collections.duplicates import check_threshold

    with kept_clear():
        check_threshold(threshold)
        check_folder(out)
        embedded = collections.embed(
            collections.load_encoder(run, device=device),
            folder,
            skip_bad=skip_bad,
            batch_size=batch_size,
            workers=workers,
            progress=shows_progress(),
        )
        found = collections.write_duplicates(embedded, out, threshold=threshold)
    note_skipped(embedded.images.skipped)
    for sentence in found.sentences():
        note(sentence)
    note(f"groups: {found.file}")
    note(f"page: {found.page}")


def draw_map(
    run: Encoder,
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page to write, .html.")],
    by: Annotated[str, typer.Option(metavar="WAY", help="pca, or umap if umap-learn is installed.")] = "pca",
    batch_size: BatchSize = 32,
    workers: Workers = LOADERS,
    device: Device = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Draw a folder as a map in which images that are alike lie near to each other, as one page."""
    from pinakes import collections
    from pinakes.cli.output import check_folder
    from pinakes.collections.map import check_request

    with kept_clear():
        check_folder(check_request(out, by).parent)
        embedded = collections.embed(
            collections.load_encoder(run, device=device),
            folder,
            skip_bad=skip_bad,
            batch_size=batch_size,
            workers=workers,
            progress=shows_progress(),
        )
        drawn = collections.write_map(embedded, out, by=by, progress=shows_progress())
    note_skipped(embedded.images.skipped)
    note(f"data: {embedded.images.about}")
    note(f"map, {drawn.about}: {drawn.file}")
