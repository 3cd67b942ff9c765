"""`pinakes list`, `search` and `show`: what is on the shelves."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from pinakes import catalogue
from pinakes.cli import completion
from pinakes.cli.console import note, print_json, print_table
from pinakes.cli.parameters import AsJson, Slug


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command("list", epilog="Example: pinakes list --task anomaly")(list_papers)
    app.command("search", epilog="Example: pinakes search anomaly coreset")(search_papers)
    app.command("show", epilog="Example: pinakes show patchcore")(show_paper)


def list_papers(
    shelf: Annotated[
        str | None, typer.Option(help="Only this shelf.", autocompletion=completion.shelves)
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task.", autocompletion=completion.tasks)] = None,
    json: AsJson = False,
) -> None:
    """List the methods on the shelves."""
    _print_papers(catalogue.papers(shelf=shelf, task=task), json)


def search_papers(
    words: Annotated[list[str], typer.Argument(help="Words that the entry must all have.")],
    json: AsJson = False,
) -> None:
    """Find methods by words in name, title, idea, authors and venue."""
    found = catalogue.search(" ".join(words))
    if not found:
        note(f"no entry has all of: {' '.join(words)}; pinakes list shows every method", aside=json)
    if found or json:
        _print_papers(found, json)


def show_paper(slug: Slug, json: AsJson = False) -> None:
    """Show a method: paper, idea, options, and how to call it."""
    from pinakes.cli.entry import read_options

    paper = catalogue.find(slug)
    options = read_options(paper)
    if json:
        print_json(_entry(paper) | {"options": [asdict(option) for option in options]})
        return
    typer.secho(f"{paper.slug}: {paper.title}", bold=True)
    typer.echo(f"{paper.authors}, {paper.venue}, {paper.url}")
    role = "baseline, " if paper.baseline else ""
    typer.echo(f"{role}shelf {paper.shelf}, task {paper.task}, code: {paper.code}\n")
    typer.echo(f"{paper.idea}\n")
    if options:
        print_table(
            ("option", "type", "default", "what it is"),
            [(o.name, o.type, o.default, o.about) for o in options],
        )
    example = options[0] if options else None
    setting = f" --set {example.name}={example.default.strip(chr(34) + chr(39))}" if example else ""
    typer.echo(f"\nShell:   pinakes fit {paper.slug} --data FOLDER{setting}")
    typer.echo(f"         pinakes compare {paper.task} --data FOLDER --methods {paper.slug}")
    argument = f", {example.name}={example.default.replace(chr(39), chr(34))}" if example else ""
    typer.echo(f'Python:  pinakes.create("{paper.slug}"{argument}).fit("FOLDER")')
    typer.echo(f"Code:    {paper.module}")


def _print_papers(papers: list[catalogue.Paper], json: bool) -> None:
    if json:
        print_json([_entry(paper) for paper in papers])
        return
    print_table(
        ("method", "title", "venue", "task", "shelf", "role"),
        [(p.slug, p.title, p.venue, p.task, p.shelf, "baseline" if p.baseline else "paper") for p in papers],
    )


def _entry(paper: catalogue.Paper) -> dict[str, Any]:
    return asdict(paper) | {"year": paper.year, "url": paper.url}
