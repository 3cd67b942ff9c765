"""What putting a claim to the test gave: the figures of both sides, seed by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["steps", "samples", "time"]


@dataclass(frozen=True)
class Budget:
    """What both sides of a duel were given to learn with.

    Args:
        kind: What was held equal: optimiser steps, training samples looked at, or seconds.
        amount: How many of them.
        batch_size: Samples a step.
    """

    kind: Kind
    amount: float
    batch_size: int

    def __str__(self) -> str:
        if self.kind == "time":
            return f"{self.amount:g} s of training, batches of {self.batch_size}"
        if self.kind == "samples":
            return f"{self.amount:g} training samples looked at, batches of {self.batch_size}"
        return f"{self.amount:g} steps, batches of {self.batch_size}" if self.amount else "no training steps"


@dataclass(frozen=True)
class Pair:
    """The figures of both sides with one seed.

    Args:
        seed: The seed that both shared.
        ours: What the paper's method reached.
        baseline: What it is held against reached.

    Raises:
        ValueError: If a figure is not finite; says whose.
    """

    seed: int
    ours: float
    baseline: float

    def __post_init__(self) -> None:
        for side in ("ours", "baseline"):
            value = getattr(self, side)
            if not math.isfinite(value):
                raise ValueError(f"{side} gave {value} with seed {self.seed}; a claim needs finite figures")

    @property
    def difference(self) -> float:
        """Ours minus the baseline's."""
        return self.ours - self.baseline


@dataclass(frozen=True)
class Trial:
    """Every seed's figures of a claim that was put to the test.

    Args:
        metric: What was measured, as people call it.
        unit: Its unit, or empty.
        data: The spec of the data, or empty where nothing was judged on data.
        budget: What both sides were given to learn with, or None where nothing was learnt.
        shared_start: Share of the baseline's trainable numbers that started equal to ours; None without learning.
        device: What it ran on: "cpu", or the name of a GPU.
        pairs: The figures, one pair a seed.
    """

    metric: str
    pairs: tuple[Pair, ...]
    unit: str = ""
    data: str = ""
    budget: Budget | None = None
    shared_start: float | None = None
    device: str = "cpu"

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Trial":
        """The inverse of `as_json`."""
        budget = values["budget"]
        pairs = tuple(Pair(**pair) for pair in values["pairs"])
        return cls(**{**values, "budget": budget and Budget(**budget), "pairs": pairs})


@dataclass(frozen=True)
class NotTestable:
    """Why a claim cannot be put to the test here.

    Args:
        reason: What it would need, in words a user understands.
    """

    reason: str


def joined(trials: Sequence[Trial]) -> Trial:
    """One trial from trials of single seeds, in the order of the seeds.

    Raises:
        ValueError: If they are not of the same metric, data and budget.
    """
    first = trials[0]
    for trial in trials[1:]:
        for name in ("metric", "unit", "data", "budget", "device"):
            here, there = getattr(first, name), getattr(trial, name)
            if here != there:
                raise ValueError(
                    f"the seeds {first.pairs[0].seed} and {trial.pairs[0].seed} differ in their {name}: {here} "
                    f"and {there}; a claim must hold it equal"
                )
    pairs = sorted((pair for trial in trials for pair in trial.pairs), key=lambda pair: pair.seed)
    return Trial(**{**vars(first), "pairs": tuple(pairs)})
