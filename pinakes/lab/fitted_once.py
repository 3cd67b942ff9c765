"""Methods that others learn from, such as a teacher: fitted once, kept in the cache, and found there by content."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

import pinakes
from pinakes.data.base import SampleSet, TaskData
from pinakes.data.inspection import cache_folder
from pinakes.data.views import View
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.runs import is_first_process
from pinakes.errors import UserError
from pinakes.lab.cells import TELLING_SETTINGS
from pinakes.lab.dependencies import module_hash
from pinakes.method import Method

log = logging.getLogger(__name__)

FOLDER = "fitted"
LAUNCHED = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS")
"""What tells a process that it trains with others."""
KEPT = 50
"""Fitted methods that are kept; the one not used for longest goes first."""

Fitted = TypeVar("Fitted", bound=Method)


def fitted_once(method: Fitted, data: TaskData, plan: TrainingPlan) -> Fitted:
    """The method, fitted on the training images, or what came of it when that was done before.

    It is recognised by everything that bears on the result: its class and options, the images with their labels, the
    settings, the code, the versions of torch and Pinakes, and the kind of device.

    Args:
        method: Not fitted yet.
        data: What to fit it on; only the training part is used.
        plan: How. Where to keep it, `out` and `resume`, is not.

    Returns:
        The fitted method, in eval mode on the plan's device.
    """
    key = _key(method, data, plan)
    folder = cache_folder() / FOLDER / key
    if folder.is_dir():
        try:
            found = type(method).load(folder, device=str(torch_device(plan.device)))
        except UserError as error:
            log.info("%s is not usable and will be made again: %s", folder, error)
        else:
            folder.touch()
            return found
    settings = {name: getattr(plan, name) for name in TELLING_SETTINGS if name not in ("epochs", "steps")}
    length = {"steps": plan.steps} if plan.steps is not None else {"epochs": plan.epochs}
    with _alone():
        method.fit(
            data,
            **settings,
            **length,
            seed=plan.seed,
            device=plan.device,
            workers=plan.workers,
            progress=plan.progress,
        )
    _keep(method, folder)
    return method


def content(samples: SampleSet) -> str:
    """A hash of what samples hold: what the set says of itself, or, where it says nothing, every sample."""
    digest = hashlib.sha256(type(samples).__name__.encode())
    if isinstance(samples, View):
        digest.update(samples.fingerprint().encode())
        for part in {id(part): part for part, _ in samples.picks}.values():
            digest.update(content(part).encode())
    elif hasattr(samples, "fingerprint"):
        digest.update(samples.fingerprint().encode())
    else:
        for index in range(len(samples)):
            for name, value in sorted(samples[index].items()):
                digest.update(name.encode())
                tensor = isinstance(value, torch.Tensor)
                digest.update(value.detach().cpu().numpy().tobytes() if tensor else repr(value).encode())
    return digest.hexdigest()


@contextmanager
def _alone() -> Iterator[None]:
    """In a process that trains with others, lets the block train by itself."""
    ours = {name: os.environ.pop(name) for name in LAUNCHED if name in os.environ}
    try:
        yield
    finally:
        os.environ |= ours


def _key(method: Method, data: TaskData, plan: TrainingPlan) -> str:
    conditions = (
        type(method).__name__,
        sorted(method.options.items()),
        content(data.train),
        len(data.train),
        data.info.as_json(),
        [(name, getattr(plan, name)) for name in TELLING_SETTINGS],
        plan.seed,
        torch_device(plan.device).type,
        pinakes.__version__,
        torch.__version__,
        module_hash(type(method).__module__),
    )
    return hashlib.sha256(repr(conditions).encode()).hexdigest()[:24]


def _keep(method: Method, folder: Path) -> None:
    """Keeps a fitted method; where the cache cannot be written, says so and goes on without."""
    if not is_first_process():
        return
    try:
        method.save(folder)
        others = sorted(folder.parent.iterdir(), key=lambda each: each.stat().st_mtime)
        for old in others[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
    except (UserError, OSError) as error:
        log.warning("%s cannot be kept for the next time: %s", folder, error)
