"""What keeps a duel fair: one plan for both sides, one start, and a count of what each side used to learn."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from pinakes.data.base import Sample, SampleSet, TaskData
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.lab.trial import Budget, Kind
from pinakes.method import Method

EQUAL_SETTINGS = ("epochs", "steps", "batch_size", "precision", "clip")
TIME_TOLERANCE = 0.1
"""Share of the limit by which the times of the two sides may differ, where that is more than a second."""


class UnequalBudgets(ValueError):
    """The two sides of a duel did not get the same to learn with."""


class NeedsNoData(UserError):
    """A claim that is measured without data cannot be repeated on other data."""


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


class CountedSamples:
    """A data set that notes how many samples are taken from it.

    Args:
        samples: The data set.
        spent: Where it is noted.
    """

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


@contextmanager
def blamed(side: str, seed: int) -> Iterator[None]:
    """Says which side of a claim failed.

    Raises:
        SideFailed: In place of the block's error, which is its cause.
    """
    try:
        yield
    except Exception as error:
        raise SideFailed(f"{side} failed with seed {seed}: {type(error).__name__}: {error}") from error


def same_plan(methods: Mapping[str, Method], settings: Mapping[str, Any]) -> TrainingPlan:
    """The plan by which all sides learn.

    Args:
        methods: The sides by name.
        settings: What the duel states.

    Raises:
        UnequalBudgets: If the sides' own defaults differ where the duel states nothing.
        UserError: If a setting is unknown or out of range.
    """
    plans = {
        side: TrainingPlan().settled(method.training_defaults, settings) for side, method in methods.items()
    }
    (one, first), *others = plans.items()
    for other, plan in others:
        for name in EQUAL_SETTINGS:
            here, there = getattr(first, name), getattr(plan, name)
            if here != there:
                raise UnequalBudgets(
                    f"{name}: {one} would learn with {here} and {other} with {there}; state it in the duel"
                )
    return first


def share_start(giver: Method, taker: Method) -> float:
    """Copies the trainable parameters of one built method to those of another that have their name and shape.

    Returns:
        The share of the taker's trainable numbers that now start equal; 1 if it has none.
    """
    given = dict(giver.named_parameters())
    shared = every = 0
    with torch.no_grad():
        for name, parameter in taker.named_parameters():
            if not parameter.requires_grad:
                continue
            every += parameter.numel()
            if name in given and given[name].shape == parameter.shape:
                parameter.copy_(given[name])
                shared += parameter.numel()
    return shared / every if every else 1.0


def learn(method: Method, data: TaskData, plan: TrainingPlan) -> Spent:
    """Fits a built method as `Method.fit` does, and counts what it uses."""
    spent = Spent()

    def count(*_: Any) -> None:
        spent.steps += 1

    method.to(torch_device(plan.device))
    started = time.perf_counter()
    handle = register_optimizer_step_post_hook(count)
    try:
        with isolated(plan.seed):
            method.learn(replace(data, train=CountedSamples(data.train, spent)), plan)
    finally:
        handle.remove()
    if method.device.type == "cuda":
        torch.cuda.synchronize(method.device)
    spent.seconds = time.perf_counter() - started
    method.eval()
    return spent


def equal_budget(spent: Mapping[str, Spent], kind: Kind, plan: TrainingPlan) -> Budget:
    """What all sides were given.

    Args:
        spent: What each side used, by name.
        kind: What must be equal.
        plan: The plan of all.

    Raises:
        UnequalBudgets: If it is not.
    """
    used = {side: getattr(each, "seconds" if kind == "time" else kind) for side, each in spent.items()}
    most, least = max(used.values()), min(used.values())
    tolerance = max(1.0, TIME_TOLERANCE * (plan.time_limit or 0)) if kind == "time" else 0
    if most - least > tolerance:
        what = {"steps": "optimiser steps", "samples": "training samples", "time": "seconds"}[kind]
        figures = ", ".join(f"{side} used {round(value, 1):g}" for side, value in used.items())
        raise UnequalBudgets(f"the two sides did not have equal budgets: {figures} {what}")
    return Budget(kind, plan.time_limit or most if kind == "time" else most, plan.batch_size)
