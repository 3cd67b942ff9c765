"""How long, on what and with which seed a method is fitted."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from pinakes.errors import UserError, suggest

Precision = Literal["32", "bf16", "16", "64"]


@dataclass(frozen=True)
class TrainingPlan:
    """Settings of one fit; every field is a keyword of `Method.fit` and an option of `pinakes fit`.

    Args:
        epochs: Passes over the training samples. Methods state their own default.
        steps: Optimiser steps, instead of epochs.
        batch_size: Samples a step, on each device.
        seed: Seed of initialisation, order and augmentation.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        devices: Processes on this machine, one a device; gloo on the CPU, NCCL on CUDA.
        nodes: Machines, when started by torchrun or Slurm on each.
        precision: "32", "bf16" (mixed), "16" (mixed) or "64".
        clip: Largest gradient norm, or None.
        hold_out: Share of the training samples that methods with a threshold set aside to find it, below 1; 0 for
            none. Data with a validation part gives that instead.
        false_alarms: Share of normal samples that such a threshold lets through as alarms, above 0 and below 1.
        time_limit: Seconds of this call after which training stops with the weights it has, or None.
        out: Run folder for logs, checkpoints and the fitted method, or None to keep nothing.
        resume: Continue from the last checkpoint in `out`, with the same settings; epochs, steps, time limit, workers
            and device may differ. A schedule whose length was fixed at the start keeps that length.
        workers: Processes that load data; 0 loads in the training process.
        checkpoint_every: Seconds between checkpoints in `out`.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If a value is out of range; the message names the setting.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    precision: Precision = "32"
    clip: float | None = None
    hold_out: float = 0.1
    false_alarms: float = 0.05
    time_limit: float | None = None
    out: Path | None = None
    resume: bool = False
    workers: int = 0
    checkpoint_every: float = 60.0
    progress: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "steps", "batch_size", "devices", "nodes"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"{name}: expected a whole number of 1 or more, got {value!r}")
        for name in ("clip", "time_limit", "checkpoint_every"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise UserError(f"{name}: expected a number above 0, got {value!r}")
        if not 0 <= self.hold_out < 1:
            raise UserError(f"hold_out: expected a share from 0 to below 1, got {self.hold_out!r}")
        if not 0 < self.false_alarms < 1:
            raise UserError(f"false_alarms: expected a share above 0 and below 1, got {self.false_alarms!r}")
        for name in ("workers", "seed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f"{name}: expected a whole number of 0 or more, got {value!r}")
        if self.precision not in get_args(Precision):
            raise UserError(
                f"precision: '{self.precision}' is unknown{suggest(self.precision, get_args(Precision))}"
            )
        if self.resume and self.out is None:
            raise UserError("resume: needs `out`, the run folder to continue")
        torch_device(self.device)

    def settled(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> "TrainingPlan":
        """This plan with a method's defaults, then the settings that the user gave.

        A given `steps` sets aside a default `epochs`, and the other way round.

        Raises:
            UserError: If a setting is unknown or out of range.
        """
        known = {each.name for each in fields(self)}
        for name in given:
            if name not in known:
                raise UserError(f"no training setting is called '{name}'{suggest(name, known)}")
        if given.get("epochs") is not None and given.get("steps") is not None:
            raise UserError("epochs, steps: give one of the two")
        values = dict(defaults)
        for one, other in (("epochs", "steps"), ("steps", "epochs")):
            if given.get(one) is not None:
                values.pop(other, None)
        values |= {name: value for name, value in given.items() if value is not None}
        if values.get("out") is not None:
            values["out"] = Path(values["out"])
        return replace(self, **values)


def torch_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is CUDA where there is one, else the CPU.

    Raises:
        UserError: If torch knows no such device or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"device: '{name}' is unknown{suggest(name, ['auto', 'cpu', 'cuda', 'cuda:0'])}"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: '{name}' is not on this machine, which has {torch.cuda.device_count()} CUDA devices"
        )
    return device
