"""Near-duplicates of a collection: images that are the same to a method, in groups, with the one to keep of each.

Two images are alike if the cosine of their whitened embeddings is at least a threshold; a group is what such pairs
connect. Whitening takes out what all images share and what varies together, beside which all look much the same: 0 then
means unrelated and 1 the same.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from pinakes.collections import pages
from pinakes.collections.embeddings import Embedded
from pinakes.collections.images import Images
from pinakes.collections.similarity import Pairs, nearest_similarity, similar_pairs, whitened
from pinakes.data.images import opened
from pinakes.engine.runs import write_whole
from pinakes.errors import UserError
from pinakes.lab import notation

FILE = "duplicates.json"
PAGE = "duplicates.html"

FEWEST = 100
"""Images that it takes to choose a threshold."""
USUAL = 0.9
"""The threshold for fewer."""
ASKED = 4000
"""Images whose nearest neighbours are looked up to choose a threshold, at most."""
PARTS = 4
"""Parts of the collection within which neighbours are looked up, so that most duplicates do not meet."""
CHANCE = 1e-5
"""The share of images that may have a neighbour beyond the threshold though they are no duplicates."""
LOWEST, HIGHEST = 0.5, 1 - 1e-6
"""Between these a threshold is chosen."""

BUFFER = 2**20
"""Pairs that are held before they are joined to groups."""
SHOWN_GROUPS, SHOWN_IMAGES, SIDE = 400, 12, 160


@dataclass(frozen=True)
class Choice:
    """How a threshold was chosen.

    Args:
        threshold: The cosine similarity from which two images count as the same.
        typical: The median similarity of an image to its nearest neighbour in a quarter of the collection, of those
            that are no duplicates.
        asked: Of how many images the nearest neighbours were looked up; 0 where there are too few to tell.
    """

    threshold: float
    typical: float
    asked: int


@dataclass(frozen=True)
class Member:
    """An image of a group.

    Args:
        path: What it is called.
        similarity: To the image that is kept.
        kind: Its class, or an empty string.
        width: In pixels.
        height: In pixels.
        bytes: Length of its file; 0 where it is no file of its own.
    """

    path: str
    similarity: float
    kind: str
    width: int
    height: int
    bytes: int


@dataclass(frozen=True)
class Group:
    """Images that are near-duplicates, the one to keep first, then the most similar to it."""

    members: tuple[Member, ...]
    places: tuple[int, ...]

    @property
    def similarity(self) -> float:
        """The mean similarity of the others to the image that is kept."""
        return sum(each.similarity for each in self.members[1:]) / (len(self.members) - 1)

    @property
    def classes(self) -> list[str]:
        """The classes of its images."""
        return sorted({each.kind for each in self.members if each.kind})

    @property
    def folders(self) -> list[str]:
        """The folders at the top of the collection that its images lie in."""
        return sorted({each.path.partition("/")[0] for each in self.members if "/" in each.path})


@dataclass(frozen=True)
class Duplicates:
    """The near-duplicates of a collection, and where they were written.

    Args:
        groups: The most similar first.
        count: How many images the collection has.
        threshold: The cosine similarity from which two images count as the same.
        choice: How the threshold was chosen; None where it was given.
        file: The JSON.
        page: The HTML.
    """

    groups: tuple[Group, ...]
    count: int
    threshold: float
    choice: Choice | None
    file: Path
    page: Path

    @property
    def superfluous(self) -> int:
        """How many images could go, so that one of each group stays."""
        return sum(len(group.members) - 1 for group in self.groups)

    def sentences(self) -> list[str]:
        """What was found, in words."""
        return _sentences(self.groups, self.count, self.threshold, self.choice)


def choose_threshold(unit: Float[Tensor, "images width"]) -> Choice:
    """The similarity beyond which an image and its nearest neighbour are closer than chance has it.

    The similarity s of an image to its nearest neighbour is computed exactly, for all images or 4000 of them, but
    within a quarter of the collection, drawn at random: of the images that have a duplicate only one in four meets it
    there, even if all have one. Of the others, log(1 - s) follows nearly an extreme-value distribution (Gumbel's, of
    minima, as it is that of the nearest of many points), and duplicates lie far below it. Its two parameters come from
    the larger values, among which duplicates are fewest; values below the threshold that follows are then left out, and
    this is repeated until none is. The threshold is that which one image in a hundred thousand passes by chance in the
    whole collection, and at least 0.5. Where embeddings have heavy tails more images pass it.

    Args:
        unit: Unit vectors, as `whitened` gives them.
    """
    count = len(unit)
    if count < FEWEST:
        return Choice(USUAL, math.nan, 0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(unit.device)
    similarity = torch.cat(
        [
            nearest_similarity(unit[part], torch.arange(min(len(part), ASKED // PARTS), device=unit.device))
            for part in order.tensor_split(PARTS)
        ]
    )
    distance = (1 - similarity.double().cpu()).clamp(min=1e-7).log().sort().values
    shares = (0.6, 0.95)
    lower, upper, chance = (math.log(-math.log1p(-share)) for share in (*shares, CHANCE / PARTS))
    left_out, beyond = -1, 0
    while left_out < beyond <= len(distance) - FEWEST // 2:
        left_out = beyond
        usual = distance[left_out:]
        low, high = (float(usual.quantile(share)) for share in shares)
        limit = low + (high - low) * (chance - lower) / (upper - lower)
        beyond = int((distance < limit).sum())
    typical = 1 - math.exp(float(distance[left_out:].median()))
    return Choice(min(max(1 - math.exp(limit), LOWEST), HIGHEST), typical, len(distance))


def connected(blocks: Iterable[Pairs], count: int) -> Int[np.ndarray, " images"]:
    """A number for each of so many images, the same for those that pairs connect.

    Pairs are joined as they come, so that memory does not grow with their number.
    """
    label = np.arange(count)
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def join() -> np.ndarray:
        first, second = (np.concatenate(each) for each in zip(*held, strict=True))
        held.clear()
        links = coo_array(
            (np.ones(len(first), dtype=bool), (label[first], label[second])), shape=(count, count)
        )
        _, among = connected_components(links, directed=False)
        joined: np.ndarray = among[label]
        return joined

    for pairs in blocks:
        held.append((pairs.first.cpu().numpy(), pairs.second.cpu().numpy()))
        if sum(len(first) for first, _ in held) >= BUFFER:
            label = join()
    return join() if held else label


def find_groups(unit: Float[Tensor, "images width"], threshold: float) -> list[Int[np.ndarray, " members"]]:
    """The places of the images of each group of two or more, ascending.

    Args:
        unit: Unit vectors, on the device that does the work.
        threshold: The cosine similarity from which two images are alike.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.01]])
        >>> [group.tolist() for group in find_groups(rows, 0.98)]
        [[0, 2]]
    """
    label = connected(similar_pairs(unit, threshold), len(unit))
    order = np.argsort(label, kind="stable")
    ends = np.flatnonzero(np.diff(label[order])) + 1
    return [members for members in np.split(order, ends) if len(members) > 1]


def check_threshold(threshold: float | None) -> None:
    """Makes sure that a threshold is a cosine similarity above 0, or None.

    Raises:
        UserError: If not.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UserError(f"threshold: expected a cosine similarity above 0 and at most 1, got {threshold}")


def write_duplicates(embedded: Embedded, out: str | Path, *, threshold: float | None = None) -> Duplicates:
    """Finds the near-duplicates of a collection and writes them as JSON and as a page with pictures.

    Nothing is removed. Of each group the image with the most pixels is to be kept, of several the one with the largest
    file, of these the first by name.

    Args:
        embedded: The collection with its embeddings.
        out: The folder for `duplicates.json` and `duplicates.html`, which needs no other file and no network.
        threshold: The cosine similarity of whitened embeddings from which two images count as the same, above 0
            and at most 1; by default as `choose_threshold` has it.

    Raises:
        UserError: If the threshold is out of range or the folder cannot be written.
    """
    check_threshold(threshold)
    images, folder = embedded.images, Path(out)
    unit = whitened(embedded.embedding.to(embedded.device))
    choice = None
    if threshold is None:
        choice = choose_threshold(unit)
        threshold = choice.threshold
    groups = [_described(images, unit, members) for members in find_groups(unit, threshold)]
    groups.sort(key=lambda group: (-group.similarity, group.members[0].path))
    found = Duplicates(tuple(groups), len(images), threshold, choice, folder / FILE, folder / PAGE)
    write_whole(found.file, json.dumps(_as_json(found, embedded), indent=1).encode())
    pages.write(found.page, "duplicates.html.jinja", **_shown(found, embedded))
    return found


def _described(images: Images, unit: Tensor, members: np.ndarray) -> Group:
    sizes = {int(place): _size(images, int(place)) for place in members}
    keep = min(sizes, key=lambda at: (-sizes[at][0] * sizes[at][1], -sizes[at][2], images.names[at]))
    places = torch.as_tensor(members, device=unit.device)
    similarity = dict(zip(members.tolist(), (unit[places] @ unit[keep]).clamp(-1, 1).tolist(), strict=True))
    order = sorted(sizes, key=lambda at: (at != keep, -similarity[at], images.names[at]))
    return Group(
        tuple(
            Member(images.names[at], 1.0 if at == keep else similarity[at], images.kinds[at], *sizes[at])
            for at in order
        ),
        tuple(order),
    )


def _size(images: Images, place: int) -> tuple[int, int, int]:
    """Width, height and length of the file; of what is no file, those of the sample."""
    file = images.file(place)
    if file is None:
        height, width = images[place]["image"].shape[-2:]
        return int(width), int(height), 0
    with opened(file) as image:
        return image.width, image.height, file.stat().st_size


def _as_json(found: Duplicates, embedded: Embedded) -> dict[str, Any]:
    return {
        "data": embedded.images.source,
        "method": embedded.method,
        "images": found.count,
        "threshold": found.threshold,
        "threshold_chosen_from": None
        if found.choice is None
        else {
            "images_asked": found.choice.asked,
            "typical_nearest_similarity": found.choice.typical if found.choice.asked else None,
        },
        "superfluous": found.superfluous,
        "groups": [
            {
                "similarity": group.similarity,
                "classes": group.classes,
                "images": [_member_as_json(member) for member in group.members],
            }
            for group in found.groups
        ],
        "skipped": [{"path": str(each.path), "reason": each.reason} for each in embedded.images.skipped],
    }


def _member_as_json(member: Member) -> dict[str, Any]:
    values = asdict(member)
    return {"path": values.pop("path"), "class": values.pop("kind"), **values}


def _sentences(groups: Sequence[Group], count: int, threshold: float, choice: Choice | None) -> list[str]:
    if groups:
        spare = sum(len(group.members) - 1 for group in groups)
        said = [
            f"{_several(len(groups), 'group')} of near-duplicates among {count:,} images: {_several(spare, 'image')} "
            f"could go ({spare / count:.1%})."
        ]
    else:
        said = [f"No near-duplicates among {_several(count, 'image')}."]
    mixed = [group for group in groups if len(group.classes) > 1]
    apart = [group for group in groups if len(group.folders) > 1 and group.classes != group.folders]
    if mixed:
        said.append(
            f"{_several(len(mixed), 'group')} with more than one class{_examples(g.classes for g in mixed)}."
        )
    if apart:
        said.append(f"{_several(len(apart), 'group')} across folders{_examples(g.folders for g in apart)}.")
    same = f"Images count as the same from a similarity of {threshold:.3f}"
    if choice is None:
        said.append(f"{same}, as was asked.")
    elif not choice.asked:
        said.append(f"{same}; to choose one by the data takes {FEWEST} images.")
    else:
        said.append(
            f"{same}. It was chosen by how alike unrelated images are: {choice.asked:,} were looked at, the nearest is "
            f"typically at {choice.typical:.3f}, and by chance one image in {1 / CHANCE:,.0f} has another beyond it."
        )
    return said


def _several(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def _examples(names: Iterable[Sequence[str]]) -> str:
    counted = Counter(" and ".join(each) for each in names).most_common(3)
    return f" ({', '.join(f'{name} {count}' for name, count in counted)})"


def _shown(found: Duplicates, embedded: Embedded) -> dict[str, Any]:
    """What the page shows."""
    images = embedded.images
    opening, *remarks = found.sentences()
    cards = []
    for group in found.groups[:SHOWN_GROUPS]:
        figures = [
            {
                "picture": pages.picture(images.thumbnail(place, SIDE)),
                "member": member,
                "name": member.path.rpartition("/")[2],
                "folder": member.path.rpartition("/")[0],
                "bytes": notation.size(member.bytes) if member.bytes else "",
            }
            for member, place in list(zip(group.members, group.places, strict=True))[:SHOWN_IMAGES]
        ]
        cards.append({"group": group, "figures": figures, "more": len(group.members) - len(figures)})
    return {
        "title": images.title,
        "about": images.about,
        "method": embedded.method,
        "opening": opening,
        "remarks": remarks,
        "cards": cards,
        "more": len(found.groups) - len(cards),
        "file": FILE,
        "skipped": images.skipped,
    }
