"""The training state on disk: written whole, checked when read, never unpickled."""

import io
import json
import logging
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from pinakes.engine.loading import Position
from pinakes.engine.runs import DESCRIPTION, write_whole
from pinakes.errors import UserError

log = logging.getLogger(__name__)

SETTINGS = "training.json"
FOLDER = "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A readable checkpoint.

    Args:
        path: Its file.
        position: Where training stood.
        state: What Lightning's Trainer restores.
    """

    path: Path
    position: Position
    state: dict[str, Any]


def claim_run(out: Path, settings: dict[str, Any], *, resume: bool) -> None:
    """Makes sure that a run may be written to `out`, and marks the folder as this run's.

    Args:
        out: The run folder.
        settings: Everything that the fitted weights depend on, by name; kept in the folder.
        resume: Whether to continue the run in the folder.

    Raises:
        UserError: If the folder holds a run and `resume` is off, or one with other settings, or it cannot be written.
    """
    path = out / SETTINGS
    held = [name for name in (SETTINGS, DESCRIPTION) if (out / name).exists()]
    if held and not resume:
        raise UserError(
            f"{out}: already holds a run ({held[0]}); continue it with --resume, or give another folder"
        )
    if not path.exists():
        if held:
            raise UserError(f"{out}: holds a fitted method but no training to resume; give another folder")
        write_settings(out, settings)
        return
    _compare(path, settings)


def write_settings(out: Path, settings: dict[str, Any]) -> None:
    """Writes what the fitted weights depend on to the run folder."""
    write_whole(out / SETTINGS, json.dumps(settings, indent=2, default=str).encode())


def _compare(path: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged ({error}); start again in another folder") from error
    now = json.loads(json.dumps(settings, default=str))
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            raise UserError(
                f"{name}: the run in {path.parent} has {before.get(name)!r}, not {now.get(name)!r}; "
                "resume with the same, or start again in another folder"
            )


def latest(out: Path) -> Checkpoint | None:
    """The last checkpoint of a run folder that can be read; damaged ones are passed over with a warning.

    Raises:
        UserError: If there are checkpoints and none can be read.
    """
    paths = sorted((out / FOLDER).glob("step-*.ckpt"), reverse=True)
    problems = []
    for path in paths:
        try:
            state = read_checkpoint(path)
        except UserError as error:
            problems.append(error)
            log.warning("%s", error)
            continue
        return Checkpoint(path, Position(**state["position"]), state)
    if problems:
        raise UserError(f"{problems[0]}; there is no other to resume from, start again in another folder")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU; only tensors, numbers, text and containers are accepted.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            raise UserError(f"{path}: is damaged (the checksum of {broken} differs)")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: is damaged ({error})") from error
    return state


class CheckpointFolder:
    """Writes the checkpoints of one run and keeps the last two.

    Args:
        out: The run folder.
        resumed: The checkpoint that training continues from, which is known to be good.
    """

    def __init__(self, out: Path, resumed: Path | None = None) -> None:
        self.folder = out / FOLDER
        self.last = resumed
        self._checked = False

    def write(self, trainer: Trainer, position: Position, step: int) -> Path:
        """Writes the state of a trainer that stands at `position`, after `step` batches.

        Raises:
            UserError: If the folder cannot be written, or an optimiser or schedule holds what cannot be kept.
        """
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        for name in [name for name in state if "hyper_parameters" in name or name == "hparams_name"]:
            del state[name]
        state["position"] = position._asdict()
        if position.batch == 0:
            _settle_epoch(state["loops"]["fit_loop"], position.epoch)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self._check(buffer)
        path = self.folder / f"step-{step:09d}.ckpt"
        write_whole(path, buffer.getvalue())
        for other in self.folder.glob("*.ckpt"):
            if other not in (path, self.last):
                other.unlink()
        self.last = path
        return path

    def _check(self, buffer: io.BytesIO) -> None:
        if self._checked:
            return
        buffer.seek(0)
        try:
            torch.load(buffer, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                "checkpoint: the state of the method, an optimiser or a schedule holds more than tensors, numbers, "
                f"text and containers of them ({str(error).splitlines()[0]})"
            ) from error
        self._checked = True


def _settle_epoch(loops: dict[str, Any], epochs: int) -> None:
    """Puts the counters of Lightning's loops, saved between two epochs, where they stand before a fresh epoch.

    The Trainer would else take up the epoch just finished, or with a limit of steps skip the one to come.
    """
    for name, progress in loops.items():
        if name == "epoch_progress":
            for count in (progress["total"], progress["current"]):
                count.update(dict.fromkeys(count, epochs))
        elif name.endswith("progress"):
            _clear_current(progress)
            if "is_last_batch" in progress:
                progress["is_last_batch"] = False


def _clear_current(progress: dict[str, Any]) -> None:
    for name, value in progress.items():
        if name == "current":
            value.update(dict.fromkeys(value, 0))
        elif isinstance(value, dict):
            _clear_current(value)
