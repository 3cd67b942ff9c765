"""The catalogue: which papers are on the shelves, found and searched without importing a method (or torch)."""

import functools
import importlib
import pkgutil
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pinakes.errors import UserError, suggest

if TYPE_CHECKING:
    from pinakes.method import Method


@dataclass(frozen=True)
class Paper:
    """One published method, as its shelf's index states it.

    Args:
        slug: The name by which everything finds it, such as "patchcore".
        title: The paper's title.
        authors: "Roth et al." or the full list.
        venue: Where and when it was published, ending in the year: "CVPR 2022".
        link: "arXiv:2106.08265", a DOI or a URL.
        task: The task that states its batches, predictions and metrics, a module of `pinakes.tasks`.
        method: "module:Class" relative to the shelf, such as "patchcore:PatchCore".
        idea: What it does, in one or two sentences.
        code: "own", or the library that does the work ("timm", "torchvision", "transformers").
        baseline: True for methods that stand beside the papers as what users expect to compare with.
        shelf: Filled in by the shelf.
    """

    slug: str
    title: str
    authors: str
    venue: str
    link: str
    task: str
    method: str
    idea: str
    code: str = "own"
    baseline: bool = False
    shelf: str = ""

    @property
    def year(self) -> int:
        """The year of publication, from the venue."""
        return int(re.findall(r"\d{4}", self.venue)[-1])

    @property
    def url(self) -> str:
        """The link as an address a browser opens."""
        if self.link.startswith("arXiv:"):
            return f"https://arxiv.org/abs/{self.link.removeprefix('arXiv:')}"
        return self.link if self.link.startswith("http") else f"https://doi.org/{self.link}"

    @property
    def module(self) -> str:
        """The importable module that holds the paper's code."""
        return f"pinakes.papers.{self.shelf}.{self.method.partition(':')[0]}"

    def load(self) -> "type[Method]":
        """Imports the paper's module and returns its `Method` class."""
        method: type[Method] = getattr(importlib.import_module(self.module), self.method.partition(":")[2])
        return method

    def _repr_html_(self) -> str:
        # imported by name: how a thing is shown in a notebook is not code that its results depend on
        html: str = importlib.import_module("pinakes.report.notebook").of_paper(self)
        return html


@dataclass(frozen=True)
class Shelf:
    """A field of vision and the papers on it; the index of a folder in `pinakes/papers`."""

    name: str
    title: str
    papers: tuple[Paper, ...]

    def __init__(self, name: str, title: str, papers: list[Paper]) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "papers", tuple(replace(paper, shelf=name) for paper in papers))


@functools.cache
def shelves() -> dict[str, Shelf]:
    """All shelves by name. Imports their indexes only, which are plain data."""
    folder = importlib.import_module("pinakes.papers")
    names = sorted(module.name for module in pkgutil.iter_modules(folder.__path__) if module.ispkg)
    found = {name: importlib.import_module(f"pinakes.papers.{name}").SHELF for name in names}
    slugs = [paper.slug for shelf in found.values() for paper in shelf.papers]
    if len(slugs) != len(set(slugs)):
        twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
        raise RuntimeError(f"two papers share a slug: {', '.join(twice)}")
    return found


def papers(*, shelf: str | None = None, task: str | None = None) -> list[Paper]:
    """All papers, or those of one shelf or task, in shelf order.

    Raises:
        UserError: If no shelf or task has that name.
    """
    everything = [paper for each in shelves().values() for paper in each.papers]
    if shelf is not None and shelf not in shelves():
        raise UserError(f"no shelf is called '{shelf}'{suggest(shelf, shelves())}")
    tasks = {paper.task for paper in everything}
    if task is not None and task not in tasks:
        raise UserError(f"no task is called '{task}'{suggest(task, tasks)}")
    return [
        paper
        for paper in everything
        if (shelf is None or paper.shelf == shelf) and (task is None or paper.task == task)
    ]


def find(slug: str) -> Paper:
    """The paper with this slug.

    Raises:
        UserError: If there is none; suggests the nearest.
    """
    by_slug = {paper.slug: paper for paper in papers()}
    if slug not in by_slug:
        raise UserError(f"no method is called '{slug}'{suggest(slug, by_slug)}")
    return by_slug[slug]


def search(words: str) -> list[Paper]:
    """Papers whose entry has every one of the words, best match first: slug, then title, then anywhere."""
    wanted = words.lower().split()

    def rank(paper: Paper) -> int | None:
        fields = [
            paper.slug,
            paper.title,
            f"{paper.idea} {paper.authors} {paper.venue} {paper.shelf} {paper.task}",
        ]
        text = " ".join(fields).lower()
        if not all(word in text for word in wanted):
            return None
        return next(i for i, field in enumerate([*fields, text]) if any(w in field.lower() for w in wanted))

    ranked = [(position, paper) for paper in papers() if (position := rank(paper)) is not None]
    return [paper for _, paper in sorted(ranked, key=lambda pair: pair[0])]
