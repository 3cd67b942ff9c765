"""The verdict, and what keeps a duel fair."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pinakes import UserError
from pinakes.data.base import DataInfo, SampleSet, TaskData
from pinakes.data.views import chosen, labels_of
from pinakes.engine.plan import TrainingPlan
from pinakes.lab.claims import Claim, Lab, NotTestable, Trial, claim, claims_of, not_testable
from pinakes.lab.fairness import SideFailed, UnequalBudgets, share_start
from pinakes.lab.trial import Pair, joined
from pinakes.lab.verdict import judge
from pinakes.method import Method
from pinakes.tasks.base import Batch, Prediction
from tests.lab.shelf_of_claims import claiming

__all__ = ["claiming"]

DATA = "textures?size=32&n=8"


def pairs(*differences: float) -> list[Pair]:
    return [Pair(seed, 1.0 + difference, 1.0) for seed, difference in enumerate(differences)]


class Line(Method):
    """Scores by a linear function of the image, which it trains."""

    task_name = "anomaly"
    training_defaults = {"epochs": 1, "batch_size": 4}

    def build(self, info: DataInfo) -> None:
        self.network = nn.Linear(3, 1)
        self.start = self.network.weight.detach().clone()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.order = [*getattr(self, "order", []), *batch["path"]]
        return self.network(batch["image"].mean((2, 3))).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": self.network(batch["image"].mean((2, 3)))[:, 0] + batch["image"].std(dim=(1, 2, 3))}


class LateLine(Line):
    """The same network, made after others have drawn random numbers."""

    def build(self, info: DataInfo) -> None:
        self.extra = nn.Linear(5, 5)
        super().build(info)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), lr=0.1)


class EagerLine(Line):
    """Trains for twice as long as it is told."""

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        super().learn(data, plan)
        super().learn(data, plan)


class LongLine(Line):
    """Has another default."""

    training_defaults = {"epochs": 3, "batch_size": 4}


class BrokenLine(Line):
    """Fails in training."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        raise RuntimeError("the wheel came off")


def kept(made: list[Any], kind: type[Method]) -> Any:
    def make() -> Method:
        made.append(kind())
        return made[-1]

    return make


def test_the_verdict_is_that_of_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        ours, baseline = rng.normal(0.3, 1, 6), rng.normal(0, 1, 6)
        found = judge(
            [Pair(s, *both) for s, both in enumerate(zip(ours, baseline, strict=True))], higher_is_better=True
        )
        test = stats.ttest_rel(ours, baseline)
        interval = test.confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        decided = test.pvalue < 0.05
        assert found.word == (("holds" if test.statistic > 0 else "reversed") if decided else "undecided")


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("heavy", [False, True])
def test_without_a_difference_each_verdict_is_wrong_at_most_once_in_twenty(seeds: int, heavy: bool) -> None:
    rng = np.random.default_rng(7)
    draws = rng.standard_t(4, (8000, seeds, 2)) if heavy else rng.normal(size=(8000, seeds, 2))
    found = Counter(
        judge([Pair(s, *figures) for s, figures in enumerate(trial)], higher_is_better=True).word
        for trial in draws.tolist()
    )
    assert 0.005 < found["holds"] / 8000 < 0.05
    assert 0.005 < found["reversed"] / 8000 < 0.05


def test_a_difference_is_found_in_the_direction_claimed() -> None:
    figures = pairs(0.1, 0.12, 0.09)
    assert judge(figures, higher_is_better=True).word == "holds"
    assert judge(figures, higher_is_better=False).word == "reversed"
    assert judge(pairs(0.1, -0.1, 0.02), higher_is_better=True).word == "undecided"


def test_a_margin_lets_ours_be_a_little_worse() -> None:
    worse = pairs(-0.010, -0.012, -0.011)
    assert judge(worse, higher_is_better=True).word == "reversed"
    assert judge(worse, higher_is_better=True, margin=0.02).word == "holds"
    assert judge(worse, higher_is_better=True, margin=0.011).word == "undecided"
    assert judge(worse, higher_is_better=True, margin=0.005).word == "reversed"


def test_one_seed_decides_nothing_and_says_so() -> None:
    found = judge(pairs(0.5), higher_is_better=True)
    assert (found.word, found.low, found.effect) == ("undecided", None, 0.5)
    assert "one seed" in found.note


def test_the_same_difference_with_every_seed_is_a_point() -> None:
    found = judge([Pair(s, 0.3, 0.1) for s in range(3)], higher_is_better=True)
    assert (found.word, found.low, found.high) == ("holds", found.effect, found.effect)
    assert "same with every seed" in found.note
    assert judge(pairs(0.0, 0.0, 0.0), higher_is_better=True).word == "undecided"


def test_a_figure_that_is_not_finite_is_an_error() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"baseline gave \w+ with seed 3"):
            Pair(3, 1.0, value)


def test_both_sides_see_the_same_samples_in_the_same_order_from_the_same_start() -> None:
    made: list[Any] = []
    trial = Lab(seeds=2, device="cpu").duel(
        ours=kept(made, Line), baseline=kept(made, LateLine), data=DATA, metric="auroc", epochs=2
    )
    ours, baseline = made[2:]
    assert ours.order == baseline.order
    torch.testing.assert_close(ours.network.weight, baseline.network.weight, rtol=0, atol=0)
    assert all(pair.difference == 0 for pair in trial.pairs)
    assert str(trial.budget) == "4 steps, batches of 4"
    assert trial.shared_start == pytest.approx(4 / 34)


def test_a_duel_about_initialisation_leaves_it_alone() -> None:
    made: list[Any] = []
    trial = Lab(seeds=1, device="cpu").duel(
        ours=kept(made, Line), baseline=kept(made, LateLine), data=DATA, metric="auroc", same_start=False
    )
    assert not torch.equal(made[0].network.weight, made[1].network.weight)
    assert trial.shared_start == 0


def test_sharing_a_start_copies_parameters_of_one_name_and_shape() -> None:
    info = DataInfo(3, (32, 32))
    one, other = Line().prepare(info, seed=1), LateLine().prepare(info, seed=2)
    other.network.bias = nn.Parameter(torch.zeros(2))
    assert share_start(one, other) == pytest.approx(3 / 35)
    assert torch.equal(one.network.weight, other.network.weight)


def test_each_seed_has_images_of_its_own_unless_the_spec_states_a_seed() -> None:
    class Fixed(Line):
        def learn(self, data: TaskData, plan: TrainingPlan) -> None:
            nn.init.zeros_(self.network.weight)

    def judged(data: str) -> list[float]:
        trial = Lab(seeds=3, device="cpu").duel(ours=Fixed, baseline=Fixed, data=data, metric="ap")
        return [pair.ours for pair in trial.pairs]

    assert len(set(judged("textures?size=32&n=24"))) > 1
    assert len(set(judged("textures?size=32&n=24&seed=4"))) == 1


def test_different_budgets_are_an_error() -> None:
    lab = Lab(seeds=1, device="cpu")
    with pytest.raises(UnequalBudgets, match=r"ours used 4, baseline used 2 optimiser steps"):
        lab.duel(ours=EagerLine, baseline=Line, data=DATA, metric="auroc")
    with pytest.raises(
        UnequalBudgets, match=r"epochs: ours would learn with 1 and baseline with 3; state it"
    ):
        lab.duel(ours=Line, baseline=LongLine, data=DATA, metric="auroc")
    assert lab.duel(ours=Line, baseline=LongLine, data=DATA, metric="auroc", steps=3).budget
    with pytest.raises(UnequalBudgets, match="training samples"):
        lab.duel(ours=Line, baseline=EagerLine, data=DATA, metric="auroc", budget="samples")


def test_a_budget_of_time_ends_both_sides() -> None:
    trial = Lab(seeds=1, device="cpu").duel(
        ours=Line, baseline=Line, data=DATA, metric="auroc", budget="time", seconds=0.3
    )
    assert str(trial.budget) == "0.3 s of training, batches of 4"
    with pytest.raises(UserError, match="seconds"):
        Lab(seeds=1).duel(ours=Line, baseline=Line, data=DATA, metric="auroc", seconds=3)


def test_the_side_that_fails_is_named() -> None:
    with pytest.raises(SideFailed, match="baseline failed with seed 0: RuntimeError: the wheel came off"):
        Lab(seeds=1, device="cpu").duel(ours=Line, baseline=BrokenLine, data=DATA, metric="auroc")


def test_an_unknown_metric_or_setting_suggests() -> None:
    with pytest.raises(UserError, match="did you mean 'auroc'"):
        Lab(seeds=1).duel(ours=Line, baseline=Line, data=DATA, metric="auroq")
    with pytest.raises(UserError, match="did you mean 'steps'"):
        Lab(seeds=1).duel(ours=Line, baseline=Line, data=DATA, metric="auroc", step=3)


def test_an_unfitted_method_is_made_anew_for_every_seed() -> None:
    trial = Lab(seeds=2, device="cpu").duel(ours=Line(), baseline=Line(), data=DATA, metric="auroc")
    assert [pair.difference for pair in trial.pairs] == [0, 0]


def test_measuring_gives_each_side_the_seed_and_the_same_random_numbers() -> None:
    def draw(seed: int) -> float:
        return seed + torch.rand(()).item()

    trial = Lab(seeds=(3, 5)).measure(ours=draw, baseline=draw, metric="luck", unit="points")
    assert [pair.difference for pair in trial.pairs] == [0, 0]
    assert [int(pair.ours) for pair in trial.pairs] == [3, 5]


def test_trials_of_single_seeds_join_only_if_they_are_of_the_same() -> None:
    one, two = Trial("auroc", (Pair(1, 1, 0),), data="a"), Trial("auroc", (Pair(0, 1, 0),), data="a")
    assert [pair.seed for pair in joined([one, two]).pairs] == [0, 1]
    with pytest.raises(ValueError, match="differ in their data"):
        joined([one, Trial("auroc", (Pair(2, 1, 0),), data="b")])


def test_a_trial_survives_json() -> None:
    trial = Lab(seeds=1, device="cpu").duel(ours=Line, baseline=Line, data=DATA, metric="auroc")
    assert Trial.from_json(trial.as_json()) == trial


def test_claims_are_found_in_the_module_that_states_them(claiming: None) -> None:
    from pinakes.catalogue import find

    found = claims_of(find("toy-failing"))
    assert [(each.name, each.margin) for each in found] == [("more_than_a_broken_one", 0.0), ("no_less", 2.0)]
    assert claims_of(find("toy-silent")) == []
    assert isinstance(found[0], Claim)
    assert found[0].about == "It would win by far."


def test_a_claim_must_say_what_and_where() -> None:
    with pytest.raises(ValueError, match="where"):
        claim(text="Ours is better.", where=" ", higher_is_better=True)
    with pytest.raises(ValueError, match="margin"):
        claim(text="Ours is better.", where="table 1", higher_is_better=True, margin=-1)
    with pytest.raises(ValueError, match="reason"):
        not_testable("")
    assert not_testable("too large") == NotTestable("too large")


class NormalLine(Line):
    """Has no use for training images labelled as anomalous."""

    def divide(self, data: TaskData, plan: TrainingPlan) -> tuple[TaskData, SampleSet | None]:
        assert plan.hold_out == 0
        normal = [i for i, label in enumerate(labels_of(data.train)) if not label]
        return replace(data, train=chosen(data.train, normal)), None


def test_each_side_of_a_duel_learns_from_what_it_has_a_use_for() -> None:
    methods = []

    def normal_line() -> Method:
        methods.append(NormalLine())
        return methods[-1]

    data = "textures?size=32&n=48&seen=scratch&shots=2"
    Lab(seeds=1, device="cpu").duel(ours=Line, baseline=normal_line, data=data, metric="auroc", steps=14)
    assert len(set(methods[0].order)) == 48
