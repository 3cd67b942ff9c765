"""`pinakes verify` and `cost`: a paper's claims put to the test, and what a method costs."""

from pathlib import Path
from typing import Annotated

import typer

from pinakes.cli import completion
from pinakes.cli.console import (
    kept_clear,
    note,
    print_error,
    print_json,
    print_rich,
    print_table,
    shows_progress,
)
from pinakes.cli.group import FAILED
from pinakes.cli.parameters import AsJson, Device, Size, Slug, pixels
from pinakes.errors import UserError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("verify", epilog="Example: pinakes verify patchcore --jobs 2")(verify)
    app.command("cost", epilog="Example: pinakes cost patchcore --size 256 --batch-size 8")(cost)


def verify(
    slugs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SLUG...]", help="Papers, as pinakes list names them.", autocompletion=completion.slugs
        ),
    ] = None,
    shelf: Annotated[
        str | None,
        typer.Option(metavar="S", help="Every paper of a shelf.", autocompletion=completion.shelves),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every paper.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only those whose code changed since, and those that failed.")
    ] = False,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="With --stale: one seed of each claim; a verdict stands where its figures come out the same.",
        ),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Seeds of each claim; 5 by default.")
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Seeds that run at a time.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two seeds and two training steps: do the claims run?")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Your images in place of the claims' own data.",
            autocompletion=completion.specs,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder; results/claims by default, runs/claims-DATA with --data."),
    ] = None,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Put papers' claims to the test against their baselines; writes the verdicts, whichever way they fall.

    Each seed that is done is kept: the same command continues where it was stopped.
    """
    if sum([bool(slugs), shelf is not None, every]) != 1:
        raise UserError("give one of the three: slugs of papers, --shelf S, or --all")
    from pinakes.catalogue import papers

    which = "all" if every else [paper.slug for paper in papers(shelf=shelf)] if shelf else slugs or []

    from pinakes.cli.output import check_folder
    from pinakes.lab.record import FAILED as CLAIM_FAILED
    from pinakes.lab.seed_run import error_file
    from pinakes.lab.verdict_table import verdict_table
    from pinakes.lab.verify import verdicts_folder
    from pinakes.lab.verify import verify as run

    folder = check_folder(verdicts_folder(data, quick) if out is None else out)
    with kept_clear():
        records = run(
            which,
            stale=stale,
            confirm=confirm,
            seeds=seeds,
            jobs=jobs,
            quick=quick,
            data=data,
            out=folder,
            device=device,
            progress=shows_progress(),
        )
    if json:
        print_json([record.as_json() for record in records])
    else:
        print_rich(verdict_table(records))
    note(f"verdicts: {folder}", aside=json)
    failures = [
        (record.slug, claim) for record in records for claim in record.claims if claim.verdict == CLAIM_FAILED
    ]
    for slug, claim in failures:
        trace = error_file(slug, claim.name)
        where = f" (the traceback is in {trace})" if trace.exists() else ""
        print_error(f"{slug}, {claim.name}: {claim.note}{where}")
    if failures:
        raise typer.Exit(FAILED)


def cost(
    slug: Slug,
    size: Size = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at a time.")] = 1,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Measure a method: parameters, FLOPs, latency and peak memory of a prediction."""
    from pinakes.lab.cost import measure_cost

    with kept_clear():
        found = measure_cost(slug, size=pixels(size), batch_size=batch_size, device=device)
    if json:
        print_json(found.as_json())
        return
    print_table(("what", "figure", "how it was measured"), found.rows())
    note(f"fitted on {found.data}; on {found.device}")
