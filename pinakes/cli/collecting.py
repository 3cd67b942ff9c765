"""`pinakes embed`, `duplicates`, `map`, `differ` and `exclude`: whole collections, looked at by what was learnt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pinakes.cli.console import kept_clear, note, note_skipped, print_table, shows_progress
from pinakes.cli.parameters import LOADERS, BatchSize, Device, SkipBad, Workers

if TYPE_CHECKING:
    from pinakes.collections.embeddings import Embedded

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
    app.command("differ", epilog="Example: pinakes differ runs/mae photos/ others/ --out runs/both")(differ)
    app.command(
        "exclude", epilog="Example: pinakes exclude photos/ --out runs/nobody --detector coco:person"
    )(exclude)


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
        found = _embedded(run, folder, device, skip_bad, batch_size, workers)
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
        embedded = _embedded(run, folder, device, skip_bad, batch_size, workers)
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
        embedded = _embedded(run, folder, device, skip_bad, batch_size, workers)
        drawn = collections.write_map(embedded, out, by=by, progress=shows_progress())
    note_skipped(embedded.images.skipped)
    note(f"data: {embedded.images.about}")
    note(f"map, {drawn.about}: {drawn.file}")


def differ(
    run: Encoder,
    first: Folder,
    second: Annotated[str, typer.Argument(metavar="FOLDER", help="Another one, likewise.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
    prototypes: Annotated[
        int | None,
        typer.Option(metavar="K", help="How many prototypes are sought, if the method has none of its own."),
    ] = None,
    batch_size: BatchSize = 32,
    workers: Workers = LOADERS,
    device: Device = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Show what one folder has that another lacks; writes JSON and a page with pictures of both."""
    from pinakes import collections
    from pinakes.cli.output import check_folder
    from pinakes.collections.prototypes import check_prototypes

    with kept_clear():
        check_prototypes(prototypes)
        check_folder(out)
        assigned = collections.assign(
            collections.load_encoder(run, device=device),
            (first, second),
            prototypes=prototypes,
            skip_bad=skip_bad,
            batch_size=batch_size,
            workers=workers,
            progress=shows_progress(),
        )
        found = collections.write_differences(assigned, out)
    for images, title in zip(assigned.images, found.titles, strict=True):
        note_skipped(images.skipped)
        note(f"{title}: {images.about}")
    for sentence in found.sentences():
        note(sentence)
    print_table(*found.table())
    note(f"prototypes: {found.file}")
    note(f"page: {found.page}")


def exclude(
    folder: Folder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
    detector: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="coco:person (or coco:cat,dog) for torchvision's detector, or MODULE:FUNCTION for one of yours.",
        ),
    ] = "coco:person",
    threshold: Annotated[
        float, typer.Option(metavar="T", help="The score, up to 1, from which an image is left out.")
    ] = 0.5,
    how: Annotated[
        str, typer.Option(metavar="WAY", help="link or copy images that are kept, or list them.")
    ] = "link",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A list of images to keep all the same, a path a line."),
    ] = None,
    drop: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A list of images to leave out all the same.")
    ] = None,
    batch_size: BatchSize = 8,
    workers: Workers = LOADERS,
    device: Device = "auto",
    skip_bad: SkipBad = False,
) -> None:
    """Make a folder without the images in which a detector finds something. The given folder stays as it is."""
    from pinakes import collections
    from pinakes.cli.output import check_folder
    from pinakes.collections.exclude import check_request

    with kept_clear():
        check_request(folder, out, threshold=threshold, how=how, lists=(keep, drop))
        check_folder(out)
        found, images = collections.exclude(
            folder,
            collections.load_detector(detector, device=device),
            out,
            name=detector,
            threshold=threshold,
            how=how,
            keep=keep,
            drop=drop,
            skip_bad=skip_bad,
            batch_size=batch_size,
            workers=workers,
            progress=shows_progress(),
        )
    note_skipped(images.skipped)
    for sentence in found.sentences():
        note(sentence)
    if found.folder is not None:
        note(f"images: {found.folder}")
    note(f"what was left out: {found.file}")
    note(f"page: {found.page}")


def _embedded(
    run: Path, folder: str, device: str, skip_bad: bool, batch_size: int, workers: int
) -> "Embedded":
    """The images of a folder with their embeddings by the method of a run."""
    from pinakes import collections

    return collections.embed(
        collections.load_encoder(run, device=device),
        folder,
        skip_bad=skip_bad,
        batch_size=batch_size,
        workers=workers,
        progress=shows_progress(),
    )
