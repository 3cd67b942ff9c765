"""The course of training on disk: a CSV file, and TensorBoard where it is installed."""

import csv
import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from pinakes.engine.watch import loss_of

CSV_FILE = "log.csv"
TENSORBOARD_FOLDER = "tensorboard"
REFRESHES = 5
"""Refreshes of the progress bar a second."""


class RunLog(Logger):
    """Writes what training logs to `log.csv`, a row a step, and to TensorBoard.

    Args:
        out: The run folder.
        resumed_step: Steps already done by the checkpoint that training continues from; what an earlier process
            logged after it is dropped.
    """

    def __init__(self, out: Path, resumed_step: int = 0) -> None:
        super().__init__()
        self.path = out / CSV_FILE
        self._columns: list[str] = ["step"]
        self._row: dict[str, Any] = {}
        self._board: Any = None
        self._resumed_step = resumed_step

    @property
    def name(self) -> str:
        """The name that Lightning asks for."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """There is one log a run folder, so no version."""
        return ""

    @rank_zero_only
    def start(self) -> None:
        """Opens the logs."""
        rows = []
        if self._resumed_step and self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [
                    row
                    for row in reader
                    if (row["step"] or "").isdigit() and int(row["step"]) < self._resumed_step
                ]
                self._columns = list(reader.fieldnames or self._columns)
        self._rewrite(rows)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(
                str(self.path.parent / TENSORBOARD_FOLDER), purge_step=self._resumed_step or None
            )

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Takes in figures of a step; those of the same step share a row."""
        step = 0 if step is None else step
        if self._row and self._row["step"] != step:
            self.save()
        values = {name: float(value) for name, value in metrics.items()}
        self._row |= {"step": step} | values
        if self._board is not None:
            for name, value in values.items():
                if name != "epoch":
                    self._board.add_scalar(name, value, step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the run folder describes the run."""

    @rank_zero_only
    def save(self) -> None:
        """Writes the row in the making."""
        if not self._row:
            return
        if not set(self._row) <= set(self._columns):
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            self._columns += [name for name in self._row if name not in self._columns]
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerow(self._row)
        self._row = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes what is pending and closes the logs."""
        self.save()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)


class LossLog(Callback):
    """Logs loss and learning rate every few steps."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the step if its turn has come."""
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        if (step + 1) % self.every:
            return
        values: dict[str, float] = {"epoch": trainer.current_epoch}
        loss = loss_of(outputs)
        if loss is not None:
            values["loss"] = loss.item()
        for index, optimizer in enumerate(trainer.optimizers):
            values[f"lr-{index}" if index else "lr"] = float(optimizer.param_groups[0]["lr"])
        for logger in trainer.loggers:
            logger.log_metrics(values, step)


class LossBar(Callback):
    """A progress bar with the loss; it looks at the loss a few times a second only.

    Args:
        total: Steps until the end.
        done: Steps already done.
    """

    def __init__(self, total: int | None, done: int = 0) -> None:
        self.total, self.done = total, done
        self._bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shows the bar."""
        if not trainer.is_global_zero:
            return
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4g}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=REFRESHES,
        )
        self._bar.start()
        self._task = self._bar.add_task("training", total=self.total, completed=self.done, loss=math.nan)
        self._shown = self._bar.get_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step."""
        self.done += 1
        if self._bar is None or self._bar.get_time() - self._shown < 1 / REFRESHES:
            return
        self._show(loss_of(outputs))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the bar away."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Takes the bar away."""
        self._stop()

    def _show(self, loss: Tensor | None) -> None:
        if self._bar is None:
            return
        if loss is not None:
            self._bar.update(self._task, loss=loss.item())
        self._bar.update(self._task, completed=self.done)
        self._shown = self._bar.get_time()

    def _stop(self) -> None:
        if self._bar is not None:
            self._show(None)
            self._bar.stop()
            self._bar = None
