"""Asano et al., PASS: An ImageNet replacement for self-supervised pretraining without humans, NeurIPS 2021 Datasets
and Benchmarks, arXiv:2109.13228.

A set of photographs to learn features from that shows no people: detectors of faces and persons leave images out, and
people check what is left. Learning without labels on it serves tasks as well as ImageNet does, even tasks that are
about people. What this rests on can be tried with any kind of thing: leave out its images, learn from the others, and
see whether the features tell that kind any worse.

What the code follows:

- `left_out`: images of some kinds are left out of pre-training, here by their classes, which stand for what a detector
  would find. Nothing else looks at a class. `pinakes exclude` does the same to a folder by a detector, with a page for
  the people who check.
- MoCo, one of the methods that the paper trains on its set, learns from what is left.

Differences from the paper: no photographs come with this; the third MoCo in place of the second; images without are
held against as many of the same source, rather than against ImageNet; attribution and licences are not dealt with.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from pinakes.data import load_data
from pinakes.data.base import SampleSet, TaskData
from pinakes.data.views import chosen, labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError, suggest
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.papers.self_supervised.mocov3 import MoCoV3
from pinakes.papers.self_supervised.views import SHORT_PLAN


def left_out(label: Sequence[int | None], without: Sequence[int]) -> list[int]:
    """The places of samples whose class is one of those to leave out.

    Args:
        label: The class of each sample, or None.
        without: The classes to leave out.

    Example:
        >>> left_out([0, 2, 1, 2], [2])
        [1, 3]
    """
    unwanted = set(without)
    return [place for place, each in enumerate(label) if each in unwanted]


class PASS(MoCoV3):
    """MoCo v3 on images of which some kinds are left out.

    Args:
        without: The classes to leave out, with commas between them; by default the last one.
        at_random: Whether as many images of any class are left out instead, for comparison.

    Raises:
        UserError: If a value is out of range; the message names it.
    """

    needs = {"label": "the class of each image"}

    def __init__(self, without: str = "", at_random: bool = False, **shared: Any) -> None:
        super().__init__(**shared)
        self.without, self.at_random = without, at_random

    def divide(self, data: TaskData, plan: TrainingPlan) -> tuple[TaskData, SampleSet | None]:
        """Leaves images out of the training part; those that probes are fitted on stay as they are.

        Raises:
            UserError: If there is no such class, or no image would be left.
        """
        data, held_out = super().divide(data, plan)
        label = labels_of(data.train)
        out = left_out(label, self._unwanted(data))
        if self.at_random:
            generator = torch.Generator().manual_seed(plan.seed)
            out = torch.randperm(len(label), generator=generator)[: len(out)].tolist()
        kept = sorted(set(range(len(label))) - set(out))
        if not kept:
            raise UserError(f"without: all images of {data.spec} would be left out; name fewer classes")
        return replace(data, train=chosen(data.train, kept)), held_out

    def _unwanted(self, data: TaskData) -> list[int]:
        names = [name.strip() for name in self.without.split(",") if name.strip()] or list(data.classes[-1:])
        for name in names:
            if name not in data.classes:
                raise UserError(f"without: {data.spec} has no class '{name}'{suggest(name, data.classes)}")
        return [data.classes.index(name) for name in names]


UNSEEN = ("table", "figure", "lamp")
CLAIM_DATA = "scenes:classification?size=32&n=2000&others=0"
"""Made scenes of a single object, so that what is left out is nowhere in a background."""


@claim(
    text="A linear classifier tells kinds that were left out of pre-training nearly as well as if as many images of "
    "any kind had been left out.",
    where="abstract: tasks that involve humans, such as human pose estimation",
    higher_is_better=True,
    margin=0.05,
)
def what_was_left_out_is_told_nearly_as_well(lab: Lab) -> Trial:
    """Accuracy of the linear probe on three of ten classes, of which pre-training has no image; the probe is fitted on
    labelled images of all. Nearly as well is up to 0.05 less.
    """

    def accuracy(seed: int, at_random: bool) -> float:
        method = PASS(without=",".join(UNSEEN), at_random=at_random)
        data = load_data(CLAIM_DATA, task=method.task, seed=seed)
        steps = 2 if lab.quick else SHORT_PLAN["steps"]
        method.fit(
            data, **SHORT_PLAN | {"steps": steps, "seed": seed, "device": str(lab.device), "hold_out": 0.0}
        )
        groups = method.evaluate_fully(data).groups
        return sum(groups[name]["linear_probe"] for name in UNSEEN) / len(UNSEEN)

    return lab.measure(
        ours=lambda seed: accuracy(seed, False),
        baseline=lambda seed: accuracy(seed, True),
        metric="accuracy of the linear probe on classes that were left out",
    )
