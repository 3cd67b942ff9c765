"""Lightning's Trainer, set up as a training plan says."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.strategies import DDPStrategy

from pinakes.engine.plan import TrainingPlan, torch_device

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}


def launched(plan: TrainingPlan) -> bool:
    """Whether torchrun or Slurm started this process together with others."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return True
    return plan.nodes > 1 and SLURMEnvironment.detect()


def make_trainer(plan: TrainingPlan) -> Trainer:
    """A Trainer that writes and prints nothing by itself.

    Gradients are averaged with a search for unused parameters: methods with several optimisers need it, and it
    keeps the order of summation, which a resumed run must share, from changing after the first step.
    """
    device = torch_device(plan.device)
    devices: int | list[int] = plan.devices
    environment: Any = LightningEnvironment()
    strategy: Any = "auto"
    if launched(plan):
        backend = "nccl" if device.type == "cuda" else "gloo"
        strategy = DDPStrategy(find_unused_parameters=True, process_group_backend=backend)
        devices = int(os.environ.get("LOCAL_WORLD_SIZE", plan.devices))
        if TorchElasticEnvironment.detect():
            environment = TorchElasticEnvironment()
        elif SLURMEnvironment.detect() and "LOCAL_RANK" not in os.environ:
            environment = SLURMEnvironment(auto_requeue=False)
    elif device.type == "cuda":
        devices = [device.index or 0]
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=devices,
        num_nodes=plan.nodes,
        strategy=strategy,
        plugins=[environment],
        precision=_PRECISION[plan.precision],  # type: ignore[arg-type]  # the table's values are Lightning's words
        max_epochs=plan.epochs if plan.epochs is not None else (-1 if plan.steps is not None else 1),
        max_steps=plan.steps if plan.steps is not None else -1,
        gradient_clip_val=plan.clip,
        use_distributed_sampler=False,
        default_root_dir=plan.out,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps Lightning's news and its advice on settings that are chosen here from the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PossibleUserWarning)
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


@contextmanager
def driver_asked_once() -> Iterator[None]:
    """On a machine without CUDA, keeps torch's optimisers from looking for the driver anew at every step.

    Importing Lightning sets the variable that makes them, to keep CUDA from starting before processes are forked.
    """
    name = "PYTORCH_NVML_BASED_CUDA_CHECK"
    before = os.environ.get(name)
    if before is None or torch.cuda.is_available():
        yield
        return
    del os.environ[name]
    try:
        yield
    finally:
        os.environ[name] = before
