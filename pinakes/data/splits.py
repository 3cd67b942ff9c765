"""Splits that depend on nothing but names and a seed, so that every machine makes the same ones."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence


def hold_out(names: Sequence[str], groups: Sequence[str], share: float, seed: int) -> set[int]:
    """Chooses the same share of every group to hold out.

    Names are ordered by a hash, so that adding files moves few others from one part to the other.

    Args:
        names: What is to be split.
        groups: The group of each, such as its class.
        share: The share to hold out, 0 to 1; of a group of two or more at least one, and never all.
        seed: Another seed gives another split.

    Returns:
        The positions of the held-out names.

    Example:
        >>> sorted(hold_out(["a", "b", "c", "d", "e"], ["x"] * 5, 0.4, seed=0))
        [0, 3]
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, group in enumerate(groups):
        members[group].append(position)
    chosen: set[int] = set()
    for positions in members.values():
        ordered = sorted(positions, key=lambda position: _order(names[position], seed))
        count = min(max(round(share * len(ordered)), 1), len(ordered) - 1)
        chosen.update(ordered[:count])
    return chosen


def _order(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()
