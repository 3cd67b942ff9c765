"""The pages that are made from the catalogue, as Markdown by the path of their source."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import docs
from docs.notebooks import as_markdown
from docs.papers import PaperText, prose, read_paper
from docs.reference import MODULES, public_names
from docs.verdicts import MEANING, ORDER, ClaimView, chart, read_verdicts, views
from pinakes import tasks
from pinakes.catalogue import Paper, Shelf, shelves
from pinakes.cli.entry import OptionEntry, read_options
from pinakes.cli.usage import use_of
from pinakes.lab import notation

HERE = Path(docs.__file__).parent
ROOT = HERE.parent
PICTURES, EXAMPLES, TEMPLATES = HERE / "pictures", HERE / "examples", HERE / "templates"
CLAIMS, BENCHMARKS = ROOT / "results" / "claims", ROOT / "results" / "bench"
EXAMPLE_FILES = {
    "IMAGES": "photo.png",
    "IMAGE": "photo.png",
    "MASK": "mask.png",
    "FILE": "edited.png",
    "DIR": "samples",
}
"""What stands for the words of a command line."""
GUIDES = (
    ("guides/your-own-images.md", "Your own images"),
    ("guides/a-small-network.md", "A small network from a large one"),
    ("guides/features-without-labels.md", "Features without labels"),
    ("guides/look-at-a-collection.md", "Look at a collection"),
    ("guides/make-new-images.md", "Make new images"),
    ("guides/your-own-loop.md", "Your own loop"),
    ("guides/reading-a-verdict.md", "Reading a verdict"),
    ("guides/many-machines.md", "Many machines"),
    ("guides/add-a-paper.md", "Add a paper"),
)


@dataclass(frozen=True)
class Ratio:
    """A ratio that a benchmark found.

    Args:
        benchmark: Name of its file.
        what: What was divided by what.
        part: Which of its ratios.
        median: The ratio.
        spread: Lower and upper quartile, or empty.
        about: Machine and date.
        papers: The papers it is of; empty for one of the machinery.
    """

    benchmark: str
    what: str
    part: str
    median: float
    spread: tuple[float, ...]
    about: str
    papers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """A paper with all that its page shows."""

    paper: Paper
    text: PaperText
    options: list[OptionEntry]
    claims: list[ClaimView]
    picture: dict[str, Any] | None
    ratios: list[Ratio]
    verdicts: list[str] = field(default_factory=list)

    @property
    def page(self) -> str:
        """The path of its page in the site."""
        return f"papers/{self.paper.shelf}/{self.paper.slug}.html"

    @property
    def source_page(self) -> str:
        """The path of the page that shows its file."""
        return f"papers/{self.paper.shelf}/source/{self.paper.slug}.html"

    @property
    def example_data(self) -> str:
        """The data on which its commands run as they stand."""
        return self.paper.load().example_data or tasks.get(self.paper.task).default_data

    @property
    def use(self) -> str:
        """The command that uses a fitted run, with names of files as an example."""
        line = use_of(self.paper.task, f"runs/{self.paper.slug}")
        return " ".join(EXAMPLE_FILES.get(word, word) for word in line.split())


def catalogue_pages() -> dict[str, str]:
    """Every page that is made, by the path of its Markdown source.

    Raises:
        UserError: If a file of verdicts was edited by hand.
    """
    entries = {name: _entries(shelf) for name, shelf in shelves().items()}
    everything = [entry for several in entries.values() for entry in several]
    claims = [claim for entry in everything for claim in entry.claims]
    shared = {"entries": everything, "claims": claims, "order": ORDER, "meaning": MEANING}
    render = _renderer()
    pages = {
        "index.md": render("home.md.jinja", counts=_counts(everything, claims), **shared),
        "papers/index.md": render("papers.md.jinja", shelves=shelves(), **shared),
        "verdicts.md": render(
            "verdicts.md.jinja", counts=Counter(claim.verdict for claim in claims), **shared
        ),
        "benchmarks.md": render("benchmarks.md.jinja", ratios=list(_ratios()), **shared),
    }
    for name, shelf in shelves().items():
        pages[f"papers/{name}/index.md"] = render("shelf.md.jinja", shelf=shelf, on_shelf=entries[name])
        for entry in entries[name]:
            base = f"papers/{name}"
            pages[f"{base}/{entry.paper.slug}.md"] = render(
                "paper.md.jinja", entry=entry, shelf=shelf, chart=chart
            )
            pages[f"{base}/source/{entry.paper.slug}.md"] = render("source.md.jinja", entry=entry)
            pages[f"reference/papers/{entry.paper.slug}.md"] = render("paper_reference.md.jinja", entry=entry)
    for module, about in MODULES.items():
        names = public_names(module)
        pages[f"reference/{module}.md"] = render(
            "reference.md.jinja", module=module, about=about, names=names
        )
    pages["reference/index.md"] = render("reference_index.md.jinja", modules=MODULES, **shared)
    for notebook in sorted(EXAMPLES.glob("*.ipynb")):
        pages[f"examples/{notebook.stem}.md"] = as_markdown(notebook)
    return pages


def navigation() -> list[Any]:
    """The site's navigation, as mkdocs takes it."""
    on_shelves = [
        {
            shelf.title: [
                f"papers/{name}/index.md",
                *({paper.slug: f"papers/{name}/{paper.slug}.md"} for paper in shelf.papers),
            ]
        }
        for name, shelf in shelves().items()
    ]
    papers = [paper for shelf in shelves().values() for paper in shelf.papers]
    examples = [f"examples/{path.stem}.md" for path in sorted(EXAMPLES.glob("*.ipynb"))]
    return [
        {"Home": "index.md"},
        {"Papers": ["papers/index.md", *on_shelves]},
        {"Verdicts": "verdicts.md"},
        {"Guides": [*({title: path} for path, title in GUIDES), *examples, {"Benchmarks": "benchmarks.md"}]},
        {
            "Reference": [
                "reference/index.md",
                *({module: f"reference/{module}.md"} for module in MODULES),
                {"Papers": [{paper.slug: f"reference/papers/{paper.slug}.md"} for paper in papers]},
            ]
        },
    ]


def _entries(shelf: Shelf) -> list[Entry]:
    records, ratios = read_verdicts(CLAIMS), list(_ratios())
    found = []
    for paper in shelf.papers:
        text = read_paper(paper)
        claims = views(paper, text.claims, records.get(paper.slug))
        found.append(
            Entry(
                paper,
                text,
                read_options(paper),
                claims,
                _picture(paper.slug),
                [ratio for ratio in ratios if paper.slug in ratio.papers],
                [word for word in ORDER if word in {claim.verdict for claim in claims}],
            )
        )
    return found


def _picture(slug: str) -> dict[str, Any] | None:
    facts = PICTURES / f"{slug}.json"
    found: dict[str, Any] | None = json.loads(facts.read_text()) if facts.is_file() else None
    return found


def _ratios() -> Iterator[Ratio]:
    for path in sorted(BENCHMARKS.glob("*.json")):
        values = json.loads(path.read_text())
        about = ", ".join(str(values[name]) for name in ("machine", "date") if values.get(name))
        papers = values.get("papers", [values["paper"]] if "paper" in values else [])
        what = values.get("what", path.stem.replace("_", " "))
        for part, found in values.items():
            if isinstance(found, dict) and isinstance(found.get("median"), int | float):
                spread = tuple(found.get("quartiles") or found.get("spread") or ())
                yield Ratio(path.stem, what, part, found["median"], spread, about, tuple(papers))


def _counts(entries: Sequence[Entry], claims: Sequence[ClaimView]) -> list[tuple[str, str]]:
    """The figures of the home page: how many, and of what."""

    def several(count: int, one: str, more: str) -> tuple[str, str]:
        return str(count), one if count == 1 else more

    verdicts = Counter(claim.verdict for claim in claims)
    by_verdict = [
        several(verdicts[word], f"claim {_becomes(word, 1)}", f"claims {_becomes(word, 2)}")
        for word in ORDER
        if verdicts[word]
    ]
    return [
        several(len(entries), "paper", "papers"),
        several(len(shelves()), "shelf", "shelves"),
        several(len({entry.paper.task for entry in entries}), "task", "tasks"),
        *by_verdict,
    ]


def _becomes(verdict: str, count: int) -> str:
    return "hold" if verdict == "holds" and count > 1 else verdict


def _renderer() -> Any:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["show"] = notation
    environment.filters["prose"] = prose

    def render(name: str, **values: Any) -> str:
        return re.sub(r"\n{3,}", "\n\n", environment.get_template(name).render(**values))

    return render
