"""Which classes a method takes for which, as an inline SVG that takes its colours from the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pinakes.lab import notation

SIDE = 480
"""Pixels that a matrix of few classes takes, at most; of many it takes `SMALLEST` for each."""
LARGEST, SMALLEST = 34, 11
WIDEST = 1100
"""Pixels that a matrix takes at most, where there are so many classes that their names no longer fit."""
NAMED = 8
"""Pixels of a cell's side from which its class is named."""
COUNTED = 20
"""Pixels of a cell's side from which its count is written in it."""
LETTERS = 18
"""Letters of a class's name that are shown."""
PALEST = 0.08
LISTED = 3
CELLS = 240
"""Rows of all matrices together that are shown at first; the other matrices are folded."""


@dataclass(frozen=True)
class Confusion:
    """What one method named the test samples of each class.

    Args:
        counts: Samples by true class (row) and predicted class (column).
        classes: The names.
    """

    counts: np.ndarray
    classes: tuple[str, ...]

    @property
    def right(self) -> int:
        """How many samples were named right."""
        return int(np.trace(self.counts))

    @property
    def total(self) -> int:
        """How many samples there are."""
        return int(self.counts.sum())

    def shares(self) -> np.ndarray:
        """Each count as a share of its row, 0 to 1; 0 in a row without samples."""
        return np.asarray(self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1))

    def worst(self) -> list[tuple[str, str, int, int]]:
        """The largest shares of a class that were taken for another: both names, how many, and of how many."""
        shares = self.shares() * (1 - np.eye(len(self.classes)))
        order = np.argsort(-shares, axis=None, kind="stable")[:LISTED]
        found = [divmod(int(place), len(self.classes)) for place in order]
        return [
            (
                self.classes[true],
                self.classes[named],
                int(self.counts[true, named]),
                int(self.counts[true].sum()),
            )
            for true, named in found
            if true != named and self.counts[true, named]
        ]

    def svg(self, slug: str) -> Markup:
        """The matrix, each row in shades of its share; a cell says its count on hover."""
        return _drawn(self, slug)


def confusion(
    truth: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Sequence[float | None]],
    fields: tuple[str, str] | None,
    classes: Sequence[str],
) -> Confusion | None:
    """Counts what a method named each test sample.

    Args:
        truth: What is known of each test sample.
        scores: The numbers that the method gave each.
        fields: The number that names a class and the truth that it should be; None for tasks that name none.
        classes: The names of the classes; samples of none of them are not counted.

    Returns:
        The counts; None where the task names no class or not every sample has been named one.

    Example:
        >>> found = confusion({"label": [0, 0, 1]}, {"label": [0, 1, 1]}, ("label", "label"), ["cat", "dog"])
        >>> found.counts.tolist()
        [[1, 1], [0, 1]]
    """
    named, true = fields or ("", "")
    if named not in scores or true not in truth or len(scores[named]) != len(truth[true]):
        return None
    if None in scores[named]:
        return None
    answers, labels = np.array(scores[named]).astype(int), np.array(truth[true]).astype(int)
    counted = (labels >= 0) & (labels < len(classes))
    if not counted.any() or not ((answers >= 0) & (answers < len(classes))).all():
        return None
    counts = np.zeros((len(classes), len(classes)), int)
    np.add.at(counts, (labels[counted], answers[counted]), 1)
    return Confusion(counts, tuple(classes))


def shown_at_first(classes: int, most: int) -> int:
    """How many matrices a page shows without folding them.

    Args:
        classes: Rows of each.
        most: How many at most.

    Example:
        >>> shown_at_first(10, 24), shown_at_first(100, 24)
        (24, 2)
    """
    return max(1, min(most, CELLS // classes))


def _drawn(found: Confusion, slug: str) -> Markup:
    count = len(found.classes)
    cell = max(SMALLEST, min(LARGEST, SIDE // count)) if count * SMALLEST <= WIDEST else WIDEST / count
    named = cell >= NAMED
    letters = min(11.0, cell - 1.5)
    room = round(max(_width(name, letters) for name in found.classes)) + 12 if named else 0
    side = room + cell * count
    parts = _cells(found, cell) + ([*_names(found.classes, cell, letters)] if named else [])
    return Markup(
        '<svg class="confusion" width="{0}" height="{0}" viewBox="{1} {1} {0} {0}" role="img" '
        'aria-label="{2}: {3} of {4} right" style="font-size: {5}px">'
        '<rect class="ground" width="{6}" height="{6}"/>{7}</svg>'
    ).format(
        _figure(side), -room, slug, found.right, found.total, _figure(letters), _figure(cell * count),
        Markup("").join(parts),
    )  # fmt: skip


def _cells(found: Confusion, cell: float) -> list[Markup]:
    shares, rows = found.shares(), found.counts.sum(1)
    parts = []
    for true, answer in np.argwhere(found.counts > 0).tolist():
        share, count = shares[true, answer], int(found.counts[true, answer])
        verb = "named right" if true == answer else f"taken for {found.classes[answer]}"
        words = f"{found.classes[true]} {verb}: {count} of {rows[true]}"
        kind = "right" if true == answer else "wrong"
        parts.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.2f}">').format(
                kind, *map(_figure, (answer * cell, true * cell, cell, cell)), PALEST + (1 - PALEST) * share
            )
            + Markup("<title>{}</title></rect>").format(words)
        )
        if cell >= COUNTED:
            parts.append(
                Markup('<text class="{}" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    "over" if share > 0.55 else "on",
                    _figure((answer + 0.5) * cell),
                    _figure((true + 0.5) * cell + 4),
                    notation.count(count).replace(" ", ""),
                )
            )
    return parts


def _names(classes: Sequence[str], cell: float, letters: float) -> list[Markup]:
    upright = all(_width(name, letters) < cell for name in classes)
    parts = []
    for place, name in enumerate(classes):
        middle = (place + 0.5) * cell
        words = Markup("{}<title>{}</title>").format(_short(name), name)
        parts.append(
            Markup('<text class="name" x="-5" y="{}" text-anchor="end">{}</text>').format(
                _figure(middle + 3), words
            )
        )
        where = (
            Markup('x="{}" y="-6" text-anchor="middle"').format(_figure(middle))
            if upright
            else Markup('transform="translate({} -5) rotate(-90)"').format(_figure(middle + 3))
        )
        parts.append(Markup('<text class="name" {}>{}</text>').format(where, words))
    return parts


def _width(name: str, letters: float) -> float:
    """About how many pixels a name takes."""
    return 0.62 * letters * len(_short(name))


def _short(name: str) -> str:
    """A name without its middle, where it is long: names often differ at the end."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2]}…{name[1 - LETTERS // 2 :]}"


def _figure(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
