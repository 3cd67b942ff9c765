"""Fitted methods that others learnt from, such as a teacher: judged once, kept beside the cells, never ranked."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import Dataset

import pinakes
from pinakes.data.base import Sample, SampleSet, TaskData
from pinakes.engine.runs import write_whole
from pinakes.errors import UserError
from pinakes.lab.cells import CellResult
from pinakes.lab.dependencies import module_hash
from pinakes.lab.judging import judged
from pinakes.lab.leaderboard import Reference
from pinakes.method import Method

log = logging.getLogger(__name__)

FOLDER = "references"
LEARNT_FROM = "learnt_from.json"
"""In a cell's folder: the key of each reference that the cell's method learnt from, by name."""


class Stretched(Dataset[Sample]):
    """Samples whose images are stretched to another size.

    Args:
        samples: The samples.
        size: Height and width in pixels.
    """

    def __init__(self, samples: SampleSet, size: tuple[int, int]) -> None:
        self.samples = samples
        self.size = size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        image = functional.interpolate(sample["image"][None], self.size, mode="bilinear", antialias=True)[0]
        return {**sample, "image": image.clamp(0, 1)}


def stretched(data: TaskData, size: tuple[int, int]) -> TaskData:
    """Data whose test images have another size."""
    if data.test is None or data.size == size:
        return data
    return replace(data, test=Stretched(data.test, size), info=replace(data.info, size=size))


def judge_references(method: Method, data: TaskData, folder: Path, *, workers: int = 0) -> dict[str, str]:
    """Judges what a method learnt from, as far as the comparison has not seen it yet.

    Args:
        method: A fitted method.
        data: What the comparison judges on; a reference that was fitted on another size sees the images in that size.
        folder: The comparison's folder.
        workers: Processes that load.

    Returns:
        The key of each reference by its name.
    """
    keys = {}
    for name, reference in method.learnt_from().items():
        keys[name] = _key(reference, data)
        if _read(folder, keys[name]) is None:
            found = _judge(name, reference, str(method.options.get(name, "")), data, workers)
            text = json.dumps(found.as_json(), indent=1, allow_nan=False)
            write_whole(_file(folder, keys[name]), text.encode())
    return keys


def learnt_from(cell: Path) -> dict[str, str]:
    """The keys that `judge_references` gave, from the folder of a cell; none where there is no such file."""
    try:
        return dict(json.loads((cell / LEARNT_FROM).read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def are_whole(folder: Path, cell: Path) -> bool:
    """Whether every reference of a cell is in the comparison's folder."""
    return all(_read(folder, key) is not None for key in learnt_from(cell).values())


def read_references(folder: Path, results: Iterable[CellResult]) -> tuple[Reference, ...]:
    """The references of cells with a result, each once, and which methods learnt from it.

    Args:
        folder: The comparison's folder.
        results: Its cells.
    """
    methods: dict[str, dict[str, None]] = {}
    for result in results:
        if not result.error:
            cell = folder / "cells" / result.slug / f"seed-{result.seed}"
            for key in learnt_from(cell).values():
                methods.setdefault(key, {})[result.slug] = None
    found = ((_read(folder, key), slugs) for key, slugs in methods.items())
    return tuple(replace(each, methods=tuple(slugs)) for each, slugs in found if each is not None)


def _judge(name: str, method: Method, given: str, data: TaskData, workers: int) -> Reference:
    paper = method.paper()
    what = given or (paper.slug if paper else type(method).__name__)
    try:
        found = judged(method, stretched(data, method.info.size), workers=workers)
    except Exception as error:  # what is wrong with a reference must not cost the cell that learnt from it
        log.warning("%s: %s cannot be judged: %s", name, what, error)
        words = " ".join(str(error).split())
        reason = words if isinstance(error, UserError) else f"{type(error).__name__}: {words}"
        return Reference(name, what, error=reason)
    return Reference(
        name,
        what,
        metrics=found.metrics,
        groups=found.groups,
        predict_milliseconds=found.predict_milliseconds,
        parameters=found.parameters,
        state_bytes=found.state_bytes,
    )


def _key(method: Method, data: TaskData) -> str:
    """A hash of the method's class, options, weights and code, and of what it is judged on."""
    digest = hashlib.sha256(type(method).__qualname__.encode())
    conditions: tuple[Any, ...] = (
        sorted(method.options.items()),
        method.info.as_json(),
        data.fingerprint(),
        data.size,
        method.device.type,
        pinakes.__version__,
        module_hash(type(method).__module__),
        module_hash(f"pinakes.tasks.{method.task_name}"),
    )
    digest.update(repr(conditions).encode())
    for name, value in sorted(method.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


def _file(folder: Path, key: str) -> Path:
    return folder / FOLDER / f"{key}.json"


def _read(folder: Path, key: str) -> Reference | None:
    try:
        return Reference.from_json(json.loads(_file(folder, key).read_text()))
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return None
