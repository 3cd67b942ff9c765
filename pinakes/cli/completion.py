"""What the shell offers on the tab key; torch is never imported for it."""

import typer

from pinakes import catalogue


def slugs(incomplete: str) -> list[tuple[str, str]]:
    """Methods, with their titles."""
    return [(p.slug, p.title) for p in catalogue.papers() if p.slug.startswith(incomplete)]


def slug_list(incomplete: str) -> list[tuple[str, str]]:
    """The method after the last comma, keeping those before it; and "all"."""
    before, comma, last = incomplete.rpartition(",")
    offered = [(before + comma + slug, title) for slug, title in slugs(last)]
    return offered if before else [*offered, *[("all", "every method of the task")] * "all".startswith(last)]


def tasks(incomplete: str) -> list[str]:
    """Tasks."""
    from pinakes.tasks import names

    return [name for name in names() if name.startswith(incomplete)]


def shelves(incomplete: str) -> list[tuple[str, str]]:
    """Shelves, with their titles."""
    return [(name, s.title) for name, s in catalogue.shelves().items() if name.startswith(incomplete)]


def specs(incomplete: str) -> list[str]:
    """Built-in sets and schemes; where none fits, the shell offers files."""
    from pinakes.data.sources import SOURCES

    return [name for name in SOURCES if name.startswith(incomplete)]


def settings(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The options of the method that stands on the line, as NAME=."""
    from pinakes.cli.entry import read_options

    slug = context.params.get("slug")
    paper = next((p for p in catalogue.papers() if p.slug == slug), None)
    offered = [(f"{option.name}=", option.about) for option in (read_options(paper) if paper else [])]
    return [(word, about) for word, about in offered if word.startswith(incomplete)]


def settings_of_methods(incomplete: str) -> list[tuple[str, str]]:
    """The options of all methods, as SLUG.NAME=; first the methods alone."""
    from pinakes.cli.entry import read_options

    slug, dot, _ = incomplete.partition(".")
    if not dot:
        return [(f"{name}.", title) for name, title in slugs(incomplete)]
    offered = [
        (f"{slug}.{option.name}=", option.about)
        for paper in catalogue.papers()
        if paper.slug == slug
        for option in read_options(paper)
    ]
    return [(word, about) for word, about in offered if word.startswith(incomplete)]
