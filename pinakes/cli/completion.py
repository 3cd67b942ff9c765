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


def distillers(incomplete: str) -> list[tuple[str, str]]:
    """The method after the last comma, of those that have a teacher and a student as options; and "all"."""
    from pinakes.cli.entry import read_options

    before, comma, last = incomplete.rpartition(",")
    offered = [
        (before + comma + paper.slug, paper.title)
        for paper in catalogue.papers()
        if paper.slug.startswith(last)
        and {"teacher", "student"} <= {option.name for option in read_options(paper)}
    ]
    return offered if before else [*offered, *[("all", "every method that distils")] * "all".startswith(last)]


def tasks(incomplete: str) -> list[str]:
    """Tasks."""
    from pinakes.tasks import names

    return [name for name in names() if name.startswith(incomplete)]


def shelves(incomplete: str) -> list[tuple[str, str]]:
    """Shelves, with their titles."""
    return [(name, s.title) for name, s in catalogue.shelves().items() if name.startswith(incomplete)]


def subjects(incomplete: str) -> list[tuple[str, str]]:
    """What can be compared: tasks that a paper has, and shelves with their titles."""
    tasks = dict.fromkeys(paper.task for paper in catalogue.papers())
    offered = [(name, "task") for name in tasks if name.startswith(incomplete)]
    return offered + [(name, title) for name, title in shelves(incomplete) if name not in tasks]


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
    """The options of all methods, as SLUG.NAME=, and of every method, as all.NAME=; first the methods alone."""
    from pinakes.cli.entry import read_options

    slug, dot, _ = incomplete.partition(".")
    if not dot:
        every = [("all.", "every method that has the option")] * "all".startswith(incomplete)
        return [(f"{name}.", title) for name, title in slugs(incomplete)] + every
    offered = {
        f"{slug}.{option.name}=": option.about
        for paper in catalogue.papers()
        if slug in (paper.slug, "all")
        for option in read_options(paper)
    }
    return [(word, about) for word, about in offered.items() if word.startswith(incomplete)]
