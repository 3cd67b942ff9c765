"""How papers, methods and data look in a notebook: plain HTML that takes its colours from the page.

The classes find this module by name rather than by import, so that no verdict depends on how things look.
"""

import base64
from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from pinakes.catalogue import Paper

if TYPE_CHECKING:
    from pinakes.data.base import SampleSet, TaskData
    from pinakes.method import Method

THUMBNAILS = 6
THUMBNAIL_HEIGHT = 56


def of_paper(paper: Paper) -> str:
    """A paper's entry: title with link, authors, venue, idea, and where it stands."""
    return (
        f'<div><a href="{escape(paper.url)}"><b>{escape(paper.title)}</b></a><br>'
        f"{escape(paper.authors)}, {escape(paper.venue)}<br>{escape(paper.idea)}<br>"
        f"<small><code>{escape(paper.slug)}</code> · shelf {escape(paper.shelf)} · task "
        f"{escape(paper.task)}</small></div>"
    )


def of_method(method: "Method") -> str:
    """A method: its paper, whether it is built and for what, and its options; bold where they are not the default."""
    paper = method.paper()
    name = f"{type(method).__name__} (<code>{escape(paper.slug)}</code>)" if paper else type(method).__name__
    source = f"{escape(paper.title)}, {escape(paper.authors)}, {escape(paper.venue)}<br>" if paper else ""
    defaults = method.option_defaults()
    rows = _rows(
        (
            f"<code>{escape(option)}</code>",
            f"<code>{escape(repr(value))}</code>"
            if value == defaults[option]
            else f"<b>{escape(repr(value))}</b>",
        )
        for option, value in method.options.items()
    )
    return f"<div><b>{name}</b><br>{source}{escape(_state(method))}<table><tbody>{rows}</tbody></table></div>"


def of_data(data: "TaskData") -> str:
    """A data set: what was recognised, and for each part how many samples of which kind, with a few of them."""
    height, width = data.size
    facts = [data.layout, f"{data.channels} × {height} × {width}"]
    facts += [f"classes {', '.join(data.classes)}"] if data.classes else []
    facts += [f"{len(data.skipped)} files left out"] if data.skipped else []
    rows = _rows(
        (f"<b>{name}</b>", str(len(part)), escape(_kinds(part)), _thumbnails(part))
        for name, part in data.splits()
    )
    return (
        f"<div><b><code>{escape(data.spec)}</code></b><br>{escape(' · '.join(facts))}"
        f"<table><tbody>{rows}</tbody></table></div>"
    )


def _rows(rows: Iterable[tuple[str, ...]]) -> str:
    cell = '<td style="text-align: left; vertical-align: top">'
    return "".join(f"<tr>{''.join(f'{cell}{each}</td>' for each in row)}</tr>" for row in rows)


def _state(method: "Method") -> str:
    if not method.is_built:
        return "not fitted yet"
    height, width = method.info.size
    parameters = sum(parameter.numel() for parameter in method.parameters())
    form = f"{method.info.channels} × {height} × {width} pixels"
    return f"built for {form} · {parameters:,} parameters · on {method.device}"


def _kinds(part: "SampleSet") -> str:
    counts = Counter(kind for kind in getattr(part, "kinds", ()) if kind)
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))


def _thumbnails(part: "SampleSet") -> str:
    from pinakes.lab.pictures import to_webp
    from pinakes.tasks.base import to_pixels

    count = min(THUMBNAILS, len(part))
    samples = [part[index * len(part) // count] for index in range(count)]
    images = [to_webp(to_pixels(sample["image"])) for sample in samples if "image" in sample]
    return " ".join(
        f'<img alt="" height="{THUMBNAIL_HEIGHT}" style="display: inline; height: {THUMBNAIL_HEIGHT}px" '
        f'src="data:image/webp;base64,{base64.b64encode(content).decode()}">'
        for _, _, content in images
    )
