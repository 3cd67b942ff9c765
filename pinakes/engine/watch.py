"""What is done around every training step: seeds, checkpoints, and stopping in good order."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from pinakes.engine.checkpoints import CheckpointFolder
from pinakes.engine.interrupts import Interrupted
from pinakes.engine.loading import VALIDATION_STREAM, TrainingLoader, reseed
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import mix

STEP_STREAM = 1
"""Sets the draws of a step apart from those of the data set for the same batch."""
SNAPSHOT_EVERY = 50
"""Steps between two copies of the weights to fall back on."""
LOOK_EVERY = 0.1
"""Seconds between two looks at the losses on CUDA; looking at every step would make the GPU wait."""
EPOCH_CHECKPOINT_GAP = 1.0
"""Seconds of training that must be worth saving before the end of an epoch writes a checkpoint."""


class Diverged(RuntimeError):
    """Training stopped because the loss or the weights are no longer finite.

    The method, and its run folder if there is one, hold the last good weights: a copy made every
    50 steps while loss and weights were finite.

    Args:
        step: The step, counted from 1.
        loss: Its loss.
        good_step: The step whose weights were put back; 0 for the weights before training.
    """

    def __init__(self, step: int, loss: float, good_step: int) -> None:
        super().__init__(step, loss, good_step)
        self.step, self.loss, self.good_step = step, loss, good_step

    def __str__(self) -> str:
        what = "the weights are" if math.isfinite(self.loss) else f"the loss became {self.loss} and is"
        return (
            f"training diverged: {what} not finite at step {self.step}; the weights of step {self.good_step} "
            "were put back. Try a lower learning rate, clip=1, or precision='32'"
        )


def loss_of(outputs: Any) -> Tensor | None:
    """The loss among what a training step returned, as a number on its device, or None."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        return None
    return loss.detach() if loss.ndim == 0 else loss.detach().float().mean()


class Watch(Callback):
    """Seeds each step, checks its loss, writes checkpoints, and stops on time, on Ctrl-C and on divergence.

    Args:
        plan: Seed, time limit and seconds between checkpoints.
        loader: The training batches, which know the position.
        folder: Where checkpoints go, or None.
        interrupted: Whether Ctrl-C was pressed.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        loader: TrainingLoader,
        folder: CheckpointFolder | None,
        interrupted: Callable[[], bool],
    ) -> None:
        self.plan, self.loader, self.folder, self.interrupted = plan, loader, folder, interrupted
        self.good_weights: dict[str, Tensor] = {}
        self.good_step = 0
        self.timed_out = False
        self._losses: list[Tensor] = []
        self._finished = self._stopped = False
        self._started = self._looked = self._saved = time.monotonic()
        self._saved_step = -1

    @property
    def step(self) -> int:
        """Batches done since the beginning of training, over all resumptions."""
        return self.loader.position.epoch * len(self.loader) + self.loader.position.batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock and keeps the first weights to fall back on."""
        self._started = self._looked = self._saved = time.monotonic()
        self._saved_step = self.good_step = self.step
        self._keep(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a checkpoint between two epochs; only here is the state of the one before complete."""
        if self._stopped or time.monotonic() - self._saved > EPOCH_CHECKPOINT_GAP:
            self._save(trainer)
        if self._stopped:
            raise Interrupted

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seeds what the step draws: dropout, noise, augmentation on the device."""
        seed = mix(self.plan.seed, trainer.current_epoch, batch_idx, trainer.global_rank, STEP_STREAM)
        reseed(seed, pl_module.device)
        trainer.fit_loop.epoch_loop._batches_that_stepped = (
            self.step - 1
        )  # numbers the logs; resuming skews it

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the loss and whether to save or stop."""
        loss = loss_of(outputs)
        if loss is not None:
            self._losses.append(loss)
        now = time.monotonic()
        copy_due = self.step - self.good_step >= SNAPSHOT_EVERY
        alone = trainer.world_size == 1
        if not copy_due and alone and pl_module.device.type == "cuda" and now - self._looked < LOOK_EVERY:
            return
        self._looked = now
        bad_step, bad_loss = self._first_bad()
        if copy_due and bad_step is None and not _finite(pl_module):
            bad_step, bad_loss = self.step, math.inf if not self._losses else self._losses[-1].item()
        limit = self.plan.time_limit
        flags = [bad_step is not None, self.interrupted(), limit is not None and now - self._started >= limit]
        diverged, interrupted, timed_out = flags if alone else _any_process(flags, pl_module.device)
        if diverged:
            raise Diverged(bad_step or self.step, bad_loss, self.good_step)
        self._losses.clear()
        if copy_due:
            self.good_step = self.step
            self._keep(pl_module)
        mid_epoch = self.loader.position.batch > 0
        last = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        stopping = interrupted or timed_out or trainer.received_sigterm or last
        if mid_epoch and (stopping or now - self._saved >= self.plan.checkpoint_every):
            self._save(trainer)
        self._stopped = interrupted
        if interrupted and mid_epoch:
            raise Interrupted
        if timed_out:
            self.timed_out = True
            trainer.should_stop = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seeds what validation draws."""
        reseed(mix(self.plan.seed, trainer.current_epoch, VALIDATION_STREAM), pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets schedules that wait for a metric step after an epoch that was resumed; Lightning leaves that out."""
        trainer.fit_loop._restarting = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the last checkpoint, from which more epochs can be trained."""
        self._finished = True
        if self.loader.position.batch == 0:
            self._save(trainer)
        if self._stopped:
            raise Interrupted

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes a checkpoint if the process is asked to end (SIGTERM) between two epochs."""
        if isinstance(exception, SIGTERMException) and self.loader.position.batch == 0:
            self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gives a method that was resumed after its last step the end of training that it awaits."""
        if not self._finished:
            pl_module.on_train_end()

    def _save(self, trainer: Trainer) -> None:
        if self.folder is None or not trainer.is_global_zero or self.step == self._saved_step:
            return
        self.folder.write(trainer, self.loader.position, self.step)
        self._saved_step = self.step
        self._saved = time.monotonic()

    def _keep(self, method: LightningModule) -> None:
        for name, value in method.state_dict().items():
            kept = self.good_weights.get(name)
            if kept is not None and kept.shape == value.shape:
                kept.copy_(value)
            else:
                self.good_weights[name] = value.detach().to("cpu", copy=True)

    def _first_bad(self) -> tuple[int | None, float]:
        if not self._losses:
            return None, math.nan
        losses = torch.stack(self._losses).tolist() if len(self._losses) > 1 else [self._losses[0].item()]
        for back, loss in zip(range(len(losses) - 1, -1, -1), losses, strict=True):
            if not math.isfinite(loss):
                return self.step - back, loss
        return None, losses[-1]


def _finite(method: LightningModule) -> bool:
    trained = [p.detach() for p in method.parameters() if p.requires_grad]
    return all(bool(torch.isfinite(p.sum()) or torch.isfinite(p).all()) for p in trained)


def _any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """Whether any process raises each flag, so that all act at the same step."""
    raised = torch.tensor(flags, dtype=torch.int32, device=device)
    torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]
