"""The verdict on a claim, computed from the paired figures and from nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pinakes.lab.intervals import Estimate
from pinakes.lab.trial import Pair

Word = Literal["holds", "undecided", "reversed"]


@dataclass(frozen=True)
class Verdict:
    """What the figures say of a claim.

    Args:
        word: "holds", "reversed" or "undecided".
        effect: The mean paired difference, positive in the direction claimed.
        low: Lower end of its 95 % interval, or None for fewer than two seeds.
        high: Upper end of it.
        note: What is to be known when reading it, or empty.
    """

    word: Word
    effect: float
    low: float | None
    high: float | None
    note: str = ""


def judge(pairs: Sequence[Pair], *, higher_is_better: bool, margin: float = 0.0) -> Verdict:
    """Judges a claim by the 95 % interval of the paired difference.

    It holds if the whole interval lies above -margin, is reversed if it lies below, and is undecided otherwise.
    Where there is no difference and no margin, each of the first two comes out once in forty times.

    Args:
        pairs: The figures, one pair a seed.
        higher_is_better: Whether the claim is that ours is higher.
        margin: How much worse ours may be where the claim is 'no worse than', in the unit of the figures.

    Source: Student's t interval of the paired differences, as `Estimate` has it.

    Example:
        >>> pairs = [Pair(0, 0.9, 0.8), Pair(1, 0.92, 0.81), Pair(2, 0.91, 0.8)]
        >>> judge(pairs, higher_is_better=True).word, judge(pairs, higher_is_better=False).word
        ('holds', 'reversed')
        >>> judge(pairs[:1], higher_is_better=True).note
        'one seed has no interval, so nothing is decided'
    """
    sign = 1 if higher_is_better else -1
    differences = Estimate(tuple(sign * pair.difference for pair in pairs))
    if differences.interval is None:
        note = "one seed has no interval, so nothing is decided"
        return Verdict("undecided", differences.mean, None, None, note)
    effect = differences.mean
    low, high = differences.interval
    note = ""
    if len(set(differences.values)) == 1:
        effect = low = high = differences.values[0]
        note = "the difference is the same with every seed, so the interval is a point"
    word: Word = "holds" if low > -margin else "reversed" if high < -margin else "undecided"
    return Verdict(word, effect, low, high, note)
