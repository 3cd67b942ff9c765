"""What one collection has that another lacks: prototypes that are frequent in one of them, in both, or in one alone.

The share of a collection that a prototype takes is the mean of its shares of the images. With a and b for the two, its
specificity is (a - b) / (a + b), with half an image added to both: 1 if only the first has it, -1 if only the second
has, 0 if both have as much. What the collections have in common is the sum of min(a, b) over all prototypes. Prototypes
of one collection are ordered by a log2(a / b), what they add to the divergence of the collections: those that take much
of the one and little of the other come first.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array
from scipy.stats import norm

from pinakes.collections import pages
from pinakes.collections.images import Images
from pinakes.collections.prototypes import Assigned
from pinakes.engine.runs import write_whole
from pinakes.nn.prototype_usage import information, specificity

FILE = "differ.json"
PAGE = "differ.html"

TWICE = 1 / 3
"""The specificity of a prototype that one collection has twice as much of as the other."""
CHANCE = 0.001
"""How likely chance alone may make a prototype as uneven as it is, for it to count as specific."""

SHOWN, SHOWN_IMAGES, SIDE = 12, 8, 128
ROWS = 5
"""Prototypes of each part in the table."""
LISTED = 24
"""Images that the JSON names of each side of a prototype, at most."""
NAMED_CLASSES = 3


@dataclass(frozen=True)
class Side:
    """What a prototype is to one of two collections.

    Args:
        share: How much of the collection it takes, 0 to 1.
        images: How many images show it most of all prototypes.
        places: Images that show it, the most alike first; a few.
        classes: The classes of the images that show it most, with their shares of these, the most frequent first; empty
            where the collection has one class.
    """

    share: float
    images: int
    places: tuple[int, ...]
    classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Prototype:
    """A prototype with what it is to both collections.

    Args:
        number: Its number, from 0.
        sides: To the first and to the second.
        specificity: 1 if only the first has it, -1 if only the second has, 0 if both have as much.
        bits: What it adds to the divergence of the one that has more of it from the other.
        owner: 0 or 1 for the one that has at least twice as much of it as the other, beyond chance; None if none has.
    """

    number: int
    sides: tuple[Side, Side]
    specificity: float
    bits: float
    owner: int | None


@dataclass(frozen=True)
class Differences:
    """What two collections have of their own and in common, and where it was written.

    Args:
        titles: Their names.
        first: Prototypes that the first has more of, those that tell most first.
        second: Likewise of the second.
        shared: The others, those that take most of both first.
        in_common: How much of the collections is alike, 0 to 1.
        by_chance: How much of it would be, by expectation, if both were drawn from the same images.
        file: The JSON.
        page: The HTML.
    """

    titles: tuple[str, str]
    first: tuple[Prototype, ...]
    second: tuple[Prototype, ...]
    shared: tuple[Prototype, ...]
    in_common: float
    by_chance: float
    file: Path
    page: Path

    @property
    def sections(self) -> list[tuple[str, tuple[Prototype, ...]]]:
        """The prototypes in three parts, each with its title."""
        one, other = self.titles
        return [
            (f"{one} has, {other} lacks", self.first),
            (f"{other} has, {one} lacks", self.second),
            ("Both have", self.shared),
        ]

    def sentences(self) -> list[str]:
        """What was found, in words."""
        one, other = self.titles
        own = [
            sum(each.sides[side].share for each in part)
            for side, part in enumerate((self.first, self.second))
        ]
        return [
            f"{one} and {other} have {self.in_common:.0%} in common.",
            f"{own[0]:.0%} of {one} lies in prototypes that {other} has less than half as much of, and {own[1]:.0%} of "
            f"{other} the other way round.",
            f"Two collections of this size, drawn from the same images, would have {self.by_chance:.0%} in common.",
        ]

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The heads of columns, and a row for each of a few prototypes of each part."""
        one, other = self.titles
        heads = ("", "prototype", f"% of {one}", f"% of {other}", "specificity", "classes")
        rows = []
        for title, part in self.sections:
            for place, each in enumerate(part[:ROWS]):
                shares = (f"{100 * side.share:.1f}" for side in each.sides)
                side = each.sides[max((0, 1), key=lambda which: each.sides[which].share)]
                classes = ", ".join(f"{name} {share:.0%}" for name, share in side.classes)
                rows.append(
                    (
                        title if not place else "",
                        str(each.number),
                        *shares,
                        f"{each.specificity:+.2f}",
                        classes,
                    )
                )
        return heads, rows


def usage(shares: csc_array) -> np.ndarray:
    """How much of a collection each prototype takes: the mean of its shares of the images."""
    return np.asarray(shares.mean(axis=0)).ravel()


def deviation(first: csc_array, second: csc_array) -> np.ndarray:
    """The standard deviation of the difference in usage, if both collections are of the same images."""
    counts = first.shape[0], second.shape[0]
    square = (first.multiply(first).sum(axis=0) + second.multiply(second).sum(axis=0)) / sum(counts)
    mean = (first.sum(axis=0) + second.sum(axis=0)) / sum(counts)
    variance = np.maximum(np.asarray(square).ravel() - np.asarray(mean).ravel() ** 2, 0)
    return np.sqrt(variance * (1 / counts[0] + 1 / counts[1]))


def write_differences(assigned: Assigned, out: str | Path) -> Differences:
    """Finds what two collections have of their own and in common, and writes it as JSON and as a page with pictures.

    A prototype is specific to a collection that has at least twice as much of it as the other has, where chance makes
    so large a difference once in a thousand times.

    Args:
        assigned: The collections with their prototypes.
        out: The folder for `differ.json` and `differ.html`, which needs no other file and no network.

    Raises:
        UserError: If the folder cannot be written.
    """
    folder = Path(out)
    shares = tuple(csc_array(each) for each in assigned.shares)
    counts = (len(assigned.images[0]), len(assigned.images[1]))
    used = [usage(each) for each in shares]
    chance = deviation(*shares)
    sides = [
        _sides(images, share, csc_array(like), each)
        for images, share, like, each in zip(assigned.images, shares, assigned.likeness, used, strict=True)
    ]
    found = _prototypes(used, chance, counts, sides)
    told = [
        tuple(sorted((each for each in found if each.owner == owner), key=lambda each: -each.bits))
        for owner in (0, 1)
    ]
    shared = sorted(
        (each for each in found if each.owner is None),
        key=lambda each: -min(side.share for side in each.sides),
    )
    differences = Differences(
        _titles(assigned.images),
        told[0],
        told[1],
        tuple(shared),
        float(np.minimum(*used).sum()),
        # the mean of |x| is the root of 2 / pi for a normal x of deviation 1
        float(1 - (2 / np.pi) ** 0.5 * chance.sum() / 2),
        folder / FILE,
        folder / PAGE,
    )
    write_whole(differences.file, json.dumps(_as_json(differences, assigned), indent=1).encode())
    pages.write(differences.page, "differ.html.jinja", **_shown(differences, assigned))
    return differences


def _prototypes(
    used: Sequence[np.ndarray], chance: np.ndarray, counts: tuple[int, int], sides: Sequence[Sequence[Side]]
) -> list[Prototype]:
    """All prototypes that an image has, by number."""
    first, second = (torch.from_numpy(each) for each in used)
    specific = specificity(first, second, counts)
    bits = torch.maximum(information(first, second, counts), information(second, first, counts[::-1]))
    beyond = (first - second).abs().numpy() > norm.isf(CHANCE / 2) * chance
    return [
        Prototype(
            number,
            (sides[0][number], sides[1][number]),
            float(specific[number]),
            float(bits[number]),
            int(specific[number] < 0) if beyond[number] and specific[number].abs() >= TWICE else None,
        )
        for number in np.flatnonzero(used[0] + used[1]).tolist()
    ]


def _sides(images: Images, shares: csc_array, likeness: csc_array, used: np.ndarray) -> list[Side]:
    """What each prototype is to a collection."""
    most = np.asarray(shares.tocsr().argmax(axis=1)).ravel()
    counts = np.bincount(most, minlength=len(used))
    kinds = np.array(images.kinds)
    sides = []
    for number, share in enumerate(used.tolist()):
        column = slice(likeness.indptr[number], likeness.indptr[number + 1])
        places, values = likeness.indices[column], likeness.data[column]
        order = np.lexsort((places, -values))[:LISTED]
        kinds_here = Counter(kinds[most == number].tolist()) if len(images.classes) > 1 else Counter()
        classes = tuple(
            (kind, many / counts[number]) for kind, many in kinds_here.most_common(NAMED_CLASSES) if kind
        )
        sides.append(Side(share, int(counts[number]), tuple(places[order].tolist()), classes))
    return sides


def _titles(images: tuple[Images, Images]) -> tuple[str, str]:
    """Short names of two collections, which differ."""
    one, other = (each.title for each in images)
    if one != other:
        return one, other
    one, other = (each.source.rstrip("/") for each in images)
    return (one, other) if one != other else ("the first", "the second")


def _as_json(found: Differences, assigned: Assigned) -> dict[str, Any]:
    ordered = [each for _, part in found.sections for each in part]
    return {
        "collections": [
            {
                "title": title,
                "data": images.source,
                "images": len(images),
                "skipped": [{"path": str(each.path), "reason": each.reason} for each in images.skipped],
            }
            for title, images in zip(found.titles, assigned.images, strict=True)
        ],
        "method": assigned.method,
        "prototypes_from": assigned.about,
        "in_common": found.in_common,
        "in_common_by_chance": found.by_chance,
        "prototypes": [
            {
                "number": each.number,
                "specific_to": None if each.owner is None else found.titles[each.owner],
                "specificity": each.specificity,
                "bits": each.bits,
                "collections": [
                    {
                        "share": side.share,
                        "images": side.images,
                        "classes": dict(side.classes),
                        "most_alike": [images.names[place] for place in side.places],
                    }
                    for images, side in zip(assigned.images, each.sides, strict=True)
                ],
            }
            for each in ordered
        ],
    }


def _shown(found: Differences, assigned: Assigned) -> dict[str, Any]:
    """What the page shows."""
    opening, *remarks = found.sentences()
    most = max(side.share for _, part in found.sections for each in part for side in each.sides)
    sections = []
    for title, part in found.sections:
        cards = [_card(each, found.titles, assigned, most) for each in part[:SHOWN]]
        sections.append({"title": title, "cards": cards, "more": len(part) - len(cards)})
    return {
        "titles": found.titles,
        "abouts": [images.about for images in assigned.images],
        "method": assigned.method,
        "prototypes": assigned.about,
        "opening": opening,
        "remarks": remarks,
        "sections": sections,
        "file": FILE,
        "skipped": [each for images in assigned.images for each in images.skipped],
    }


def _card(prototype: Prototype, titles: Sequence[str], assigned: Assigned, most: float) -> dict[str, Any]:
    rows = [
        {
            "title": title,
            "side": side,
            "width": 100 * side.share / most,
            "classes": ", ".join(f"{name} {share:.0%}" for name, share in side.classes),
            "figures": [
                {"picture": pages.picture(images.thumbnail(place, SIDE)), "name": images.names[place]}
                for place in side.places[:SHOWN_IMAGES]
            ],
        }
        for title, images, side in zip(titles, assigned.images, prototype.sides, strict=True)
    ]
    return {"prototype": prototype, "rows": rows}
