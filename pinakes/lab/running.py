"""Runs one cell of a comparison: fit, judge, time, draw."""

import json
import math
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import pinakes
from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.lab.cells import SCORES, TELLING_SETTINGS, TRACEBACK, Cell, CellResult
from pinakes.lab.judging import give_back, judged, wait_for
from pinakes.lab.pictures import encode
from pinakes.lab.references import LEARNT_FROM, judge_references
from pinakes.method import Method
from pinakes.tasks.base import Batch, Field, Prediction, Task, unbatch

ERROR_LENGTH = 300


class Watcher:
    """Keeps, of the predictions that stream past, the numbers of every sample and all of the shown samples.

    Args:
        task: Says which fields of a prediction are one number a sample.
        shown: Indices of the samples whose predictions are kept whole.
    """

    def __init__(self, task: Task, shown: Sequence[int]) -> None:
        self.numbers = [name for name, stated in task.prediction.items() if _is_number(stated)]
        self.shown = set(shown)
        self.scores: dict[str, list[float]] = {}
        self.predictions: dict[int, Prediction] = {}

    def __call__(self, start: int, batch: Batch, prediction: Prediction) -> None:
        """Takes in the predictions for a batch whose first sample has the index `start`."""
        for name in self.numbers:
            if name in prediction:
                self.scores.setdefault(name, []).extend(prediction[name].detach().float().cpu().tolist())
        length = len(next(iter(prediction.values())))
        for index in self.shown & set(range(start, start + length)):
            one = unbatch(prediction, index - start)
            self.predictions[index] = {
                name: value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value
                for name, value in one.items()
            }


def _is_number(stated: Field) -> bool:
    return stated.dimensions == ["batch"] and stated.dtype is not str and not stated.ragged


def run_cell(
    cell: Cell, task: Task, data: TaskData, shown: Sequence[int], folder: Path
) -> tuple[CellResult, dict[str, bytes]]:
    """Fits and judges a method, and leaves nothing of it in memory.

    Args:
        cell: What to run.
        task: The task to judge it by.
        data: What to fit and judge on.
        shown: Indices of the test samples of which pictures are drawn.
        folder: The comparison's folder, in which what the method learnt from is judged once.

    Returns:
        What came of it, be it an error, and the files that belong to it.
    """
    try:
        return _run(cell, task, data, shown, folder)
    except Exception as error:
        whole = "".join(traceback.format_exception(error))
        return CellResult(cell.paper.slug, cell.seed, cell.key, error=_one_line(error)), {
            TRACEBACK: whole.encode()
        }
    finally:
        give_back()


def _run(
    cell: Cell, task: Task, data: TaskData, shown: Sequence[int], folder: Path
) -> tuple[CellResult, dict[str, bytes]]:
    method = pinakes.create(cell.paper.slug, **cell.options)
    plan = TrainingPlan().settled(method.training_defaults, {**cell.settings, "seed": cell.seed})
    if type(method).ready is not Method.ready:
        _make_ready(pinakes.create(cell.paper.slug, **cell.options), data, plan)
    started = time.perf_counter()
    method.fit(data, seed=cell.seed, **cell.settings)
    wait_for(method)
    fit_seconds = time.perf_counter() - started
    watcher = Watcher(task, shown)
    found = judged(method, data, seed=cell.seed, workers=plan.workers, observe=watcher)
    references = judge_references(method, data, folder, workers=plan.workers)
    pictures, files = _draw(task, data, watcher)
    result = CellResult(
        slug=cell.paper.slug,
        seed=cell.seed,
        key=cell.key,
        metrics=found.metrics,
        groups=found.groups,
        fit_seconds=fit_seconds,
        predict_milliseconds=found.predict_milliseconds,
        parameters=found.parameters,
        state_bytes=found.state_bytes,
        device=found.device,
        options=dict(method.options),
        settings={name: getattr(plan, name) for name in TELLING_SETTINGS},
        pictures=pictures,
    )
    scores = {
        name: [value if math.isfinite(value) else None for value in v] for name, v in watcher.scores.items()
    }
    if references:
        files[LEARNT_FROM] = json.dumps(references).encode()
    return result, {**files, SCORES: json.dumps(scores).encode()}


def _make_ready(method: Method, data: TaskData, plan: TrainingPlan) -> None:
    """Gets what several methods learn from, such as a teacher, so that no one's fit is timed with it."""
    fitted, _ = method.divide(data, plan)
    method.prepare(data.info, seed=plan.seed)
    with isolated(plan.seed):
        method.ready(fitted, plan)


def _draw(task: Task, data: TaskData, watcher: Watcher) -> tuple[dict[int, Any], dict[str, bytes]]:
    if data.test is None:
        return {}, {}
    scale = task.scale(list(watcher.predictions.values()))
    return encode(
        "pictures",
        {
            index: task.draw_prediction(data.test[index], prediction, scale)
            for index, prediction in sorted(watcher.predictions.items())
        },
    )


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    if not isinstance(error, UserError):
        words = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return words if len(words) <= ERROR_LENGTH else f"{words[:ERROR_LENGTH]}..."
