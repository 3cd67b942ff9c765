"""A claim that is true by construction, tried by a duel; each fit is noted in the file that TOY_LOG names."""

import os
from pathlib import Path

import torch

from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.lab.claims import Lab, Trial, claim
from pinakes.method import Method as Base
from pinakes.tasks.base import Batch, Prediction


class Method(Base):
    """Scores by the label that it finds in the batch."""

    task_name = "anomaly"

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        if log := os.environ.get("TOY_LOG"):
            with Path(log).open("a") as file:
                file.write(f"{type(self).__name__} {plan.seed}\n")
        if os.environ.get("TOY_STOP") == f"{type(self).__name__} {plan.seed}":
            raise KeyboardInterrupt

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": batch["label"].float() + 1e-3 * torch.rand(len(batch["label"]))}


class Denial(Method):
    """Scores by the opposite of the label."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": -batch["label"].float()}


@claim(text="Knowing the label beats denying it.", where="nowhere", higher_is_better=True)
def knowing_beats_denying(lab: Lab) -> Trial:
    """On a few crops."""
    return lab.duel(ours=Method, baseline=Denial, data="textures?size=32&n=24", metric="auroc")
