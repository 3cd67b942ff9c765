"""Reads the house's docstrings for the reference: `Example:` as examples, `Source:` as a paragraph."""

import re
from typing import Any

import griffe


class HouseSections(griffe.Extension):
    """Brings the house's sections into the form that the Google style parser knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrites the docstring of an object once it is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = _known_sections(obj.docstring.value)


def _known_sections(docstring: str) -> str:
    text = "\n".join(_without_emphasis(line) for line in docstring.split("\n"))
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return re.sub(r"^Source: (.*(?:\n {2,}\S.*)*)", _source, text, flags=re.MULTILINE)


def _without_emphasis(line: str) -> str:
    """The line with the asterisks of symbols such as s* escaped, which Markdown would take for emphasis."""
    if line.lstrip().startswith((">>>", "...")):
        return line
    parts = line.split("`")
    return "`".join(
        part if position % 2 else re.sub(r"(?<=\w)\*", r"\\*", part) for position, part in enumerate(parts)
    )


def _source(found: re.Match[str]) -> str:
    return f"**Source:** {' '.join(found[1].split())}"
