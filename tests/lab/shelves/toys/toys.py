"""Methods that take no time; each notes its fits in a file, if it is given one."""

from pathlib import Path

import torch

from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.tasks.base import Batch, Prediction


class Contrast(Method):
    """How far each pixel is from the mean of its image."""

    task_name = "anomaly"

    def __init__(self, power: float = 1.0, log: str = "", interrupted_by: str = "") -> None:
        super().__init__()
        if power <= 0:
            raise UserError(f"power: expected above 0, got {power}")
        self.power, self.log_file, self.interrupted_by = power, log, interrupted_by

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        if self.interrupted_by and plan.seed == 1 and Path(self.interrupted_by).exists():
            raise KeyboardInterrupt
        if self.log_file:
            with Path(self.log_file).open("a") as log:
                log.write(f"{plan.seed}\n")

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        grey = batch["image"].mean(1)
        found = (grey - grey.mean((1, 2), keepdim=True)).abs() ** self.power
        return {"score": found.amax((1, 2)), "map": found}


class Taught(Contrast):
    """Says what its teacher says, which is another power of the contrast, or one that cannot be judged."""

    def __init__(self, teacher: str = "2", power: float = 1.0) -> None:
        super().__init__(power)
        self.teacher = teacher

    def ready(self, data: TaskData, plan: TrainingPlan) -> None:
        taught_by = Contrast(float(self.teacher)) if self.teacher != "broken" else Mute()
        self.found = [taught_by.prepare(data.info)]

    def learnt_from(self) -> dict[str, Method]:
        return {"teacher": self.found[0]}


class Mute(Method):
    """Answers nothing."""

    task_name = "anomaly"


class Noise(Method):
    """A score that says nothing, and no map."""

    task_name = "anomaly"

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        """Nothing is learnt."""

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": torch.rand(len(batch["image"]))}


class Broken(Method):
    """Fails whenever it is fitted, unless a file is there."""

    task_name = "anomaly"

    def __init__(self, works_with: str = "") -> None:
        super().__init__()
        self.works_with = works_with

    def learn(self, data: TaskData, plan: TrainingPlan) -> None:
        if not (self.works_with and Path(self.works_with).exists()):
            raise RuntimeError("the wheel\n   came off")

    def predict_step(self, batch: Batch, batch_idx: int = 0) -> Prediction:
        return {"score": batch["image"].mean((1, 2, 3))}
