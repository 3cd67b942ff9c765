"""Scores, chance, and the one bar for all: a third of the way from chance to a perfect score."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

Samples = dict[str, Any]
"""All samples of a split: tensors with a leading dimension of samples, lists of what differs in shape."""


class Outcome(NamedTuple):
    """The score on held-out samples, and that of chance on the same."""

    score: float
    chance: float


@dataclass(frozen=True)
class Measure:
    """What a score is, and that of a perfect answer: 1 for shares of what is right, 0 for errors."""

    name: str
    perfect: float

    def bar(self, chance: float) -> float:
        """What a network must reach."""
        return chance + (self.perfect - chance) / 3

    def is_met(self, outcome: Outcome) -> bool:
        """Whether the score is at least as near to perfect as the bar."""
        return abs(self.perfect - outcome.score) <= abs(self.perfect - self.bar(outcome.chance))


def share_equal(answers: Tensor, truth: Tensor) -> float:
    """The share of answers that are the true ones."""
    return (answers == truth).float().mean().item()


def most_common(values: Tensor) -> Tensor:
    """The most common value at each place over the samples, with a leading dimension of one."""
    return values.mode(0).values[None]
