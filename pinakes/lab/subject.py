"""What a comparison is about: a task, or a shelf and the task that most of its papers have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pinakes.catalogue import Paper, find, papers, shelves
from pinakes.errors import UserError, suggest


@dataclass(frozen=True)
class Subject:
    """The papers that are compared, all of one task.

    Args:
        name: What the user named.
        task: The task of the papers.
        papers: Those that are compared.
        left_out: Papers of the shelf that have other tasks.
    """

    name: str
    task: str
    papers: tuple[Paper, ...]
    left_out: tuple[Paper, ...] = ()

    @property
    def omission(self) -> str:
        """Which papers of the shelf are left out and why, in one line; empty where none are."""
        if not self.left_out:
            return ""
        others = ", ".join(f"{paper.slug} ({paper.task})" for paper in self.left_out)
        return f"{self.name} is compared by the task {self.task}; left out: {others}"


def subject(name: str, methods: str | Sequence[str] = "all") -> Subject:
    """What a task or, where no task has that name, a shelf has to compare.

    Args:
        name: Name of a task or of a shelf.
        methods: Names in the catalogue, one string with commas or several, of one task. "all" are those of the task,
            or those of the shelf that have the task that most of them have.

    Raises:
        UserError: If a name is unknown, none is given, or a method is not of the task or shelf.

    Example:
        >>> [paper.slug for paper in subject("anomaly", "padim").papers]
        ['padim']
    """
    tasks = {paper.task for paper in papers()}
    if name not in tasks | set(shelves()):
        raise UserError(f"no task or shelf is called '{name}'{suggest(name, tasks | set(shelves()))}")
    named = None if methods == "all" else _named(methods)
    if name in tasks:
        for paper in named or ():
            if paper.task != name:
                raise UserError(f"{paper.slug} is a method for the task '{paper.task}', not for '{name}'")
        return Subject(name, name, tuple(papers(task=name) if named is None else named))
    if named is not None:
        return _on_shelf(name, named)
    on_shelf = papers(shelf=name)
    task = Counter(paper.task for paper in on_shelf).most_common(1)[0][0]
    return Subject(
        name,
        task,
        tuple(paper for paper in on_shelf if paper.task == task),
        tuple(paper for paper in on_shelf if paper.task != task),
    )


def _named(methods: str | Sequence[str]) -> list[Paper]:
    slugs = methods.split(",") if isinstance(methods, str) else methods
    chosen = [find(slug) for slug in dict.fromkeys(slug.strip() for slug in slugs)]
    if not chosen:
        raise UserError("methods: none are given; name some, or give 'all'")
    return chosen


def _on_shelf(name: str, named: Sequence[Paper]) -> Subject:
    for paper in named:
        if paper.shelf != name:
            raise UserError(
                f"{paper.slug} is on the shelf '{paper.shelf}', not on '{name}'; name the task '{paper.task}' to "
                "compare methods of several shelves"
            )
        if paper.task != named[0].task:
            raise UserError(
                f"{paper.slug} is a method for the task '{paper.task}', {named[0].slug} for '{named[0].task}'; "
                "compare methods of one task"
            )
    return Subject(name, named[0].task, tuple(named))
