"""Run folders: a fitted method on disk as safetensors and JSON, written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from pinakes.data.base import DataInfo
from pinakes.errors import UserError

DESCRIPTION = "method.json"
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Args:
        slug: The method's name in the catalogue.
        options: Its constructor's arguments.
        info: The form of the data it was fitted on.
        tensors: Its weights and buffers by name.
    """

    slug: str
    options: dict[str, Any]
    info: DataInfo
    tensors: dict[str, Tensor]


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whenever the process is killed or the power fails.

    Raises:
        UserError: If the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path.parent}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def write_run(
    folder: Path, *, slug: str, options: Mapping[str, Any], info: DataInfo, tensors: Mapping[str, Tensor]
) -> Path:
    """Writes a fitted method to `folder` and returns it; of processes that train together, the first writes."""
    from pinakes import __version__

    if not is_first_process():
        return folder

    weights = save_safetensors(
        {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    )
    description = {
        "pinakes": __version__,
        "method": slug,
        "options": {name: str(v) if isinstance(v, Path) else v for name, v in options.items()},
        "info": info.as_json(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        text = json.dumps(description, indent=2)
    except TypeError as error:
        raise UserError(f"options of {slug}: only text, numbers and lists can be saved ({error})") from error
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / DESCRIPTION, text.encode())
    return folder


def read_run(folder: Path) -> Run:
    """Reads a run folder; nothing in it is ever unpickled.

    Raises:
        UserError: If it holds no run or a damaged one.
    """
    description = read_description(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{path}: is missing; fit again, or copy it from the original run")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != description["weights_sha256"]:
        raise UserError(
            f"{path}: is damaged (its checksum differs); fit again, or copy it from the original run"
        )
    try:
        tensors = load_safetensors(content)
    except SafetensorError as error:
        raise UserError(
            f"{path}: is damaged ({error}); fit again, or copy it from the original run"
        ) from error
    return Run(
        slug=description["method"],
        options={name: _tupled(value) for name, value in description["options"].items()},
        info=DataInfo.from_json(description["info"]),
        tensors=tensors,
    )


def _tupled(value: Any) -> Any:
    """JSON has no tuples: what was one comes back as a list."""
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value


def read_description(folder: Path) -> dict[str, Any]:
    """Reads which method a run folder holds, with options and data form, but not its weights.

    Raises:
        UserError: If the folder holds no run or its description is damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise UserError(f"{folder}: holds no run (no {DESCRIPTION}); give a folder written by fit or save")
    try:
        description: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: is damaged ({error}); fit again, or copy it from the original run"
        ) from error
    missing = {"method", "options", "info", "weights_sha256"} - set(description)
    if missing:
        raise UserError(f"{path}: is damaged (lacks {', '.join(sorted(missing))}); fit again")
    return description


def is_first_process() -> bool:
    """Whether this process writes: the only one, or the first of those that torchrun or Slurm started together."""
    launched = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
    return launched is None or launched == "0"


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads a state dict whose buffers may have other shapes than the module's own.

    Raises:
        RuntimeError: If names or the shapes of parameters differ.
    """
    buffers = dict(module.named_buffers())
    for name, value in tensors.items():
        if name in buffers and buffers[name].shape != value.shape:
            owner, _, last = name.rpartition(".")
            setattr(module.get_submodule(owner), last, torch.empty_like(value, device=buffers[name].device))
    module.load_state_dict(dict(tensors))
