"""The lab: ours against a baseline, with everything else equal."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from pinakes.data import load_data
from pinakes.engine.plan import torch_device
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError, suggest
from pinakes.lab.fairness import (
    NeedsNoData,
    UnequalBudgets,
    blamed,
    equal_budget,
    learn,
    same_plan,
    share_start,
)
from pinakes.lab.trial import Kind, Pair, Trial
from pinakes.method import Method

Side = Method | Callable[[], Method]
"""A method that is not fitted yet, or what makes one: a class, or a function without arguments."""

QUICK_STEPS = 2
QUICK_SECONDS = 2.0
ENDLESS = 10**9
"""Steps of a fit that only its time limit ends."""


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
        that each seed has images of its own. Parameters of the same name and shape start equal. A side is
        given those training samples that it has a use for; none are held out unless `hold_out` says so.

        Args:
            ours: The paper's method.
            baseline: What it is held against.
            data: The spec of the data, with a test part.
            metric: Name of a metric of the task.
            budget: What must come out equal: optimiser "steps", "samples" looked at (where one side has more
                optimisers than the other), or "time", where speed is the paper's point.
            seconds: How long each side trains, for the budget "time".
            same_start: Whether our initial parameters are copied to the baseline where name and shape agree; False
                only where initialisation is what is claimed.
            **settings: Fields of `TrainingPlan` for both sides: epochs, steps, batch_size, ...

        Raises:
            UnequalBudgets: If the two sides did not get the same to learn with.
            SideFailed: If one side failed; its error is the cause.
            UserError: If a name or setting cannot be used.
        """
        if (budget == "time") != (seconds is not None):
            raise UserError("seconds: give it with budget='time', and only there")
        sides = {"ours": _maker(ours), "baseline": _maker(baseline)}
        spec = self.data or data
        trials = []
        for seed in self.seeds:
            given = self._settings(settings, seconds, seed)
            trials.append(_once(sides, spec, metric, budget, same_start, given, seed))
            gc.collect()
        if any(trial.budget != trials[0].budget for trial in trials):
            budgets = ", ".join(str(trial.budget) for trial in trials)
            raise UnequalBudgets(f"the budget changed with the seed: {budgets}")
        return replace(
            trials[0], pairs=tuple(trial.pairs[0] for trial in trials), device=device_name(self.device)
        )

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
            NeedsNoData: If the lab was told to use other data, of which a measurement knows nothing.
        """
        if self.data is not None:
            raise NeedsNoData(f"{metric}: is measured without data, so it cannot be repeated on {self.data}")
        pairs = []
        for seed in self.seeds:
            figures = {}
            for side, measured in (("ours", ours), ("baseline", baseline)):
                with blamed(side, seed), isolated(seed):
                    figures[side] = float(measured(seed))
            pairs.append(Pair(seed, figures["ours"], figures["baseline"]))
        return Trial(metric, tuple(pairs), unit=unit, device=device_name(self.device))

    def _settings(self, settings: Mapping[str, Any], seconds: float | None, seed: int) -> dict[str, Any]:
        given = {"hold_out": 0.0, **settings, "seed": seed, "device": str(self.device)}
        if seconds is not None:
            limit = min(seconds, QUICK_SECONDS) if self.quick else seconds
            return given | {"time_limit": limit, "steps": ENDLESS}
        if self.quick:
            return {name: value for name, value in given.items() if name != "epochs"} | {"steps": QUICK_STEPS}
        return given


def device_name(device: torch.device) -> str:
    """The name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _once(
    sides: Mapping[str, Callable[[], Method]],
    spec: str,
    metric: str,
    budget: Kind,
    same_start: bool,
    settings: Mapping[str, Any],
    seed: int,
) -> Trial:
    methods: dict[str, Method] = {}
    for side, make in sides.items():
        with blamed(side, seed):
            methods[side] = make()
    task = methods["ours"].task
    stated = {each.name: each for each in task.metrics}
    if metric not in stated:
        raise UserError(f"metric: the task {task.name} has no '{metric}'{suggest(metric, stated)}")
    plan = same_plan(methods, settings)
    data = load_data(spec, task=task, seed=seed)
    if data.test is None or len(data.test) == 0:
        raise UserError(f"{spec}: has no test part to judge the two sides on")
    for side, method in methods.items():
        with blamed(side, seed):
            method.prepare(data.info, seed=seed)
    shared = share_start(methods["ours"], methods["baseline"]) if same_start else 0.0
    spent, figures = {}, {}
    for side, method in methods.items():
        with blamed(side, seed):
            fitted, held_out = method.divide(data, plan)
            with isolated(seed):
                method.ready(fitted, plan)
            spent[side] = learn(method, fitted, plan)
            with isolated(seed):
                if held_out is not None:
                    method.calibrate(held_out, plan)
                found = method.evaluate(data)
            if metric not in found:
                raise UserError(f"metric: {spec} gives no '{metric}'{suggest(metric, found)}")
            figures[side] = found[metric]
    pair = Pair(seed, figures["ours"], figures["baseline"])
    return Trial(
        stated[metric].label,
        (pair,),
        data=spec,
        budget=equal_budget(spent, budget, plan),
        shared_start=shared,
    )


def _maker(side: Side) -> Callable[[], Method]:
    """What makes a fresh method for every seed."""
    return partial(type(side), **side.options) if isinstance(side, Method) else side
