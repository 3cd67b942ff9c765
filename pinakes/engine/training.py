"""`train`: fits a method that gives `training_step` and `configure_optimizers`, on Lightning's Trainer.

Training is a function of (seed, step): the order of the samples follows from (seed, epoch), what the data set draws
from (seed, epoch, batch) and what the step draws from the same and the process. So a run that was killed, resumed
from its last checkpoint, ends with the weights of one that was not: to the bit on the CPU, and on CUDA as far as the
kernels are deterministic. The number of loading processes changes nothing.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, LightningModule
from lightning.pytorch.utilities.exceptions import SIGTERMException

from pinakes.data.base import TaskData
from pinakes.engine.checkpoints import CheckpointFolder, claim_run, latest, read_checkpoint
from pinakes.engine.interrupts import Interrupted, interrupts
from pinakes.engine.loading import Position, TrainingLoader, validation_loader
from pinakes.engine.logs import LossBar, LossLog, RunLog
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.processes import train_in_processes
from pinakes.engine.runs import is_first_process, load_tensors
from pinakes.engine.seeds import isolated
from pinakes.engine.trainer import driver_asked_once, launched, make_trainer, quiet
from pinakes.engine.watch import Diverged, Watch
from pinakes.errors import UserError

if TYPE_CHECKING:
    from pinakes.method import Method

log = logging.getLogger(__name__)

LOG_EVERY = 50
"""The most steps between two rows of the log; shorter runs log a hundred rows."""


def train(method: "Method", data: TaskData, plan: TrainingPlan) -> None:
    """Fits a built method on `data.train`, and leaves it on the plan's device in eval mode.

    `data.val` is used where the method gives `validation_step`. With `plan.out`, the run folder gets `log.csv`,
    TensorBoard's log, and `checkpoints/`: one every `plan.checkpoint_every` seconds and one between epochs that
    last a second or more, of which the last two are kept. With `plan.resume`, training goes on from the last
    that can be read. The time limit counts the seconds of this call.

    Args:
        method: A method whose networks are built.
        data: What to train and validate on.
        plan: How long, on what, with which seed.

    Raises:
        TypeError: If the method gives no `training_step` or `configure_optimizers`.
        UserError: If a setting cannot be used, or every checkpoint in `plan.out` is damaged.
        Diverged: If loss or weights are no longer finite; the method and `plan.out` then hold the last good weights.
        KeyboardInterrupt: On Ctrl-C, once the step in progress is done and saved to `plan.out`.
    """
    _check(method, data, plan)
    resume_from = _resume_point(plan)
    try:
        with isolated(plan.seed):
            if plan.devices > 1 and not launched(plan):
                train_in_processes(method, data, plan, resume_from)
            else:
                with interrupts() as interrupted:
                    train_here(method, data, plan, resume_from, interrupted)
    except Diverged:
        if plan.out is not None:
            method.save(plan.out)
        raise
    except Interrupted:
        raise KeyboardInterrupt from None
    except SIGTERMException as error:
        raise SystemExit(128 + 15) from error
    finally:
        method.to(torch_device(plan.device)).eval()


def train_here(
    method: "Method",
    data: TaskData,
    plan: TrainingPlan,
    resume_from: Path | None,
    interrupted: Callable[[], bool],
) -> None:
    """Trains in this process, which may be one of several that were started together.

    Args:
        method: A built method.
        data: What to train and validate on.
        plan: As for `train`.
        resume_from: The checkpoint to continue from.
        interrupted: Whether the user asked to stop.

    Raises:
        Diverged: After putting the last good weights into the method.
        Interrupted: If the user asked to stop.
    """
    with quiet(), driver_asked_once():
        trainer: Any = make_trainer(plan)
        split = {"rank": trainer.global_rank, "processes": trainer.world_size}
        collate = method.task.collate
        loader = TrainingLoader(
            data.train,
            collate,
            batch_size=plan.batch_size,
            seed=plan.seed,
            workers=plan.workers,
            pin_memory=torch_device(plan.device).type == "cuda",
            **split,
        )
        if resume_from is not None:
            state = read_checkpoint(resume_from)
            loader.position = Position(**state["position"])
            load_tensors(method, state["state_dict"])
            del state
        validation = None
        if data.val is not None and type(method).validation_step is not LightningModule.validation_step:
            validation = validation_loader(
                data.val, collate, batch_size=plan.batch_size, seed=plan.seed, workers=plan.workers, **split
            )
        folder = None if plan.out is None else CheckpointFolder(plan.out, resume_from)
        watch = Watch(plan, loader, folder, interrupted)
        trainer.callbacks += [watch, *_reporters(trainer, method, plan, loader)]
        method.train()
        try:
            trainer.fit(method, loader, validation, ckpt_path=resume_from, weights_only=True)
        except Diverged:
            load_tensors(method, watch.good_weights)
            raise
        finally:
            loader.close()
            _detach(method, plan)
    if watch.timed_out and trainer.is_global_zero:
        log.warning("time limit of %g s reached after step %d; training stopped", plan.time_limit, watch.step)


def _check(method: "Method", data: TaskData, plan: TrainingPlan) -> None:
    for name in ("training_step", "configure_optimizers"):
        if getattr(type(method), name) is getattr(LightningModule, name):
            raise TypeError(f"{type(method).__name__} gives neither `{name}` nor a `learn` of its own")
    if len(data.train) == 0:
        raise UserError(f"{data.spec}: has no training samples")
    if plan.clip is not None and not method.automatic_optimization:
        raise UserError(f"clip: {type(method).__name__} steps its optimisers itself; leave `clip` out")
    device = torch_device(plan.device)
    if plan.devices > 1 and device.index is not None:
        raise UserError(
            f"device: give '{device.type}' to train on {plan.devices} devices, not '{plan.device}'"
        )
    if device.type == "cuda" and plan.devices > torch.cuda.device_count():
        raise UserError(
            f"devices: this machine has {torch.cuda.device_count()} CUDA devices, got {plan.devices}"
        )
    if plan.nodes > 1 and not launched(plan):
        raise UserError(
            f"nodes: to train on {plan.nodes} machines, start the command with torchrun or Slurm on each"
        )


def claim(method: "Method", data: TaskData, plan: TrainingPlan) -> None:
    """Makes sure that `plan.out` may be written: it holds no run, or, with `plan.resume`, the one to continue.

    Raises:
        UserError: If it holds another run, or one with other settings, or cannot be written.
    """
    if plan.out is None or not is_first_process():
        return
    paper = method.paper()
    settings = {
        "method": paper.slug if paper else type(method).__name__,
        "options": method.options,
        "data": data.fingerprint(),
        "seed": plan.seed,
        "batch_size": plan.batch_size,
        "devices": max(plan.devices * plan.nodes, int(os.environ.get("WORLD_SIZE", "1"))),
        "precision": plan.precision,
        "clip": plan.clip,
    }
    claim_run(plan.out, settings, resume=plan.resume)


def _resume_point(plan: TrainingPlan) -> Path | None:
    """The checkpoint to resume from."""
    if plan.out is None or not plan.resume:
        return None
    found = latest(plan.out)
    if found is None:
        log.warning("%s: holds no checkpoint yet; starting from the beginning", plan.out)
        return None
    if plan.epochs is not None and found.position.epoch > plan.epochs:
        raise UserError(
            f"epochs: the run in {plan.out} already has {found.position.epoch}, got {plan.epochs}"
        )
    if plan.steps is not None and found.state["global_step"] > plan.steps:
        raise UserError(
            f"steps: the run in {plan.out} already has {found.state['global_step']}, got {plan.steps}"
        )
    return found.path


def _reporters(trainer: Any, method: "Method", plan: TrainingPlan, loader: TrainingLoader) -> list[Callback]:
    """What logs and shows the loss; sets the trainer's own logging to the same pace."""
    limits = [plan.steps] if plan.steps is not None and method.automatic_optimization else []
    if plan.epochs is not None:
        limits.append(plan.epochs * len(loader))
    total = min(limits, default=None)
    reporters: list[Callback] = []
    done = loader.position.epoch * len(loader) + loader.position.batch
    if plan.out is not None:
        trainer.log_every_n_steps = min(LOG_EVERY, max(1, (total or LOG_EVERY * 100) // 100))
        run_log = RunLog(plan.out, done)
        run_log.start()
        trainer.loggers = [run_log]
        reporters.append(LossLog(trainer.log_every_n_steps))
    if plan.progress:
        reporters.append(LossBar(total, done))
    return reporters


def _detach(method: "Method", plan: TrainingPlan) -> None:
    """Frees a method of its trainer, its gradients and, after training in 64 bits, its width."""
    method.trainer = None
    method.zero_grad(set_to_none=True)
    if plan.precision == "64":
        method.to(torch.float32)
