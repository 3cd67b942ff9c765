"""The lab: ours against a baseline, with everything else equal."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pinakes.data import load_data
from pinakes.data.base import Sample, SampleSet, TaskData
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError, suggest
from pinakes.lab.trial import Budget, Kind, Pair, Trial
from pinakes.method import Method

Side = Method | Callable[[], Method]
"""A method that is not fitted yet, or what makes one: a class, a function without arguments."""

EQUAL_SETTINGS = ("epochs", "steps", "batch_size", "precision", "time_limit")
QUICK_STEPS = 2
QUICK_SECONDS = 2.0
MANY_STEPS = 10**9
TIME_TOLERANCE = 0.1
"""Share of a limit of time by which the two sides may differ, and at least a second."""


class UnequalBudgets(ValueError):
    """The two sides of a duel were not given the same to learn with."""


class SideFailed(RuntimeError):
    """One side of a claim failed, so that there is nothing to judge."""


@dataclass
class Spent:
    """What one side used while it learnt.

    Args:
        steps: Optimiser steps.
        samples: Training samples looked at.
        seconds: Seconds.
    """

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0


class _Counted:
    """A data set that notes how often it is looked at."""

    def __init__(self, samples: SampleSet, spent: Spent) -> None:
        self._samples = samples
        self._spent = spent

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        self._spent.samples += 1
        return self._samples[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        self._spent.samples += len(indices)
        fetch = getattr(self._samples, "__getitems__", None)
        return fetch(indices) if fetch else [self._samples[index] for index in indices]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._samples, name)


class Lab:
    """Where a claim is put to the test: runs both sides with the same seeds and gathers their figures.

    Args:
        seeds: How many seeds, or which.
        data: A spec that stands in for that of every duel, or None.
        quick: Two steps of training at most: shows that a claim runs, and nothing else.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        UserError: If there is no seed or no such device.

    Example:
        >>> lab = Lab(seeds=3)
        >>> trial = lab.measure(ours=lambda seed: 1.0 + seed, baseline=lambda seed: 2.0, metric="parameters")
        >>> [pair.difference for pair in trial.pairs]
        [-1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        seeds: int | Sequence[int] = 5,
        *,
        data: str | None = None,
        quick: bool = False,
        device: str = "auto",
    ) -> None:
        self.seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
        if not self.seeds:
            raise UserError(f"seeds: expected 1 or more, got {seeds}")
        self.data = data
        self.quick = quick
        self.device = torch_device(device)

    def duel(
        self,
        *,
        ours: Side,
        baseline: Side,
        data: str,
        metric: str,
        budget: Kind = "steps",
        seconds: float | None = None,
        same_start: bool = True,
        **settings: Any,
    ) -> Trial:
        """Fits and judges both sides with every seed.

        Both get the same data, order, seed and settings. A spec that states no seed is loaded with the duel's, so
        that each seed has images of its own. Parameters of the same name and shape start equal.

        Args:
            ours: The paper's method.
            baseline: What it is held against.
            data: The spec of the data, with a test part.
            metric: Name of a metric of the task.
            budget: What must come out equal: optimiser "steps", "samples" looked at (where one side has more
                optimisers than the other), or "time", where speed is the paper's point.
            seconds: How long each side trains, for the budget "time".
            same_start: Whether to copy our initial parameters to the baseline where name and shape agree; leave it
                out only where initialisation is what is claimed.
            **settings: Fields of `TrainingPlan` for both sides: epochs, steps, batch_size, ...

        Raises:
            UnequalBudgets: If the two sides did not get the same to learn with.
            SideFailed: If one side failed; its error is the cause.
            UserError: If a name or setting cannot be used.
        """
        if (budget == "time") != (seconds is not None):
            raise UserError("seconds: give it with budget='time', and only there")
        sides = {"ours": _factory(ours), "baseline": _factory(baseline)}
        trials = [self._duel_once(sides, data, metric, budget, seconds, same_start, settings, s) for s in self.seeds]
        first = trials[0]
        if any(trial.budget != first.budget for trial in trials):
            raise UnequalBudgets(f"the budget changed with the seed: {', '.join(str(t.budget) for t in trials)}")
        return replace(first, pairs=tuple(trial.pairs[0] for trial in trials))

    def measure(
        self,
        *,
        ours: Callable[[int], float],
        baseline: Callable[[int], float],
        metric: str,
        unit: str = "",
    ) -> Trial:
        """Measures both sides with every seed: claims about cost, and claims without training.

        Args:
            ours: From a seed to our figure.
            baseline: From a seed to the figure that it is held against.
            metric: What is measured, as people call it.
            unit: Its unit.

        Raises:
            SideFailed: If one side failed; its error is the cause.
            UserError: If the lab was told to use other data, of which a measurement knows nothing.
        """
        if self.data is not None:
            raise UserError(f"data: {metric} is measured without data, so it cannot be repeated on {self.data}")
        pairs = []
        for seed in self.seeds:
            figures = {}
            for side, measured in (("ours", ours), ("baseline", baseline)):
                with _blamed(side, seed), isolated(seed):
                    figures[side] = float(measured(seed))
            pairs.append(Pair(seed, figures["ours"], figures["baseline"]))
        return Trial(metric, tuple(pairs), unit=unit, device=_spoken(self.device))

    def _duel_once(
        self,
        sides: dict[str, Callable[[], Method]],
        spec: str,
        metric: str,
        budget: Kind,
        seconds: float | None,
        same_start: bool,
        settings: dict[str, Any],
        seed: int,
    ) -> Trial:
        methods: dict[str, Method] = {}
        for side, make in sides.items():
            with _blamed(side, seed):
                methods[side] = make()
        task = methods["ours"].task
        stated = {each.name: each for each in task.metrics}
        if metric not in stated:
            raise UserError(f"metric: the task {task.name} has no '{metric}'{suggest(metric, stated)}")
        given = self._settings(settings, seconds, seed)
        plan = _same_plan(methods, given)
        data = load_data(self.data or spec, task=task, seed=seed)
        for side, method in methods.items():
            with _blamed(side, seed):
                method.prepare(data.info, seed=seed)
        shared = _share_start(methods["ours"], methods["baseline"]) if same_start else 0.0
        spent, figures = {}, {}
        for side, method in methods.items():
            with _blamed(side, seed):
                spent[side] = _learn(method, data, plan)
                figures[side] = _judged(method, data, metric, seed)
        return Trial(
            stated[metric].label,
            (Pair(seed, figures["ours"], figures["baseline"]),),
            data=self.data or spec,
            budget=_equal(spent, budget, plan),
            shared_start=shared,
            device=_spoken(self.device),
        )

    def _settings(self, settings: dict[str, Any], seconds: float | None, seed: int) -> dict[str, Any]:
        given = {**settings, "seed": seed, "device": str(self.device)}
        if seconds is not None:
            given |= {"time_limit": min(seconds, QUICK_SECONDS) if self.quick else seconds, "steps": MANY_STEPS}
        elif self.quick:
            given = {name: value for name, value in given.items() if name != "epochs"} | {"steps": QUICK_STEPS}
        return given
