"""What methods that learn features give before they learn: the weights that they start from, judged in the same way.

Features of a network that has learnt nothing are no blank sheet, and a larger network gives better ones. What a method
has learnt is therefore held against the same network with the same seed as it starts, not against another network.
"""

import json
import logging
from pathlib import Path

import pinakes
from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan, torch_device
from pinakes.engine.runs import write_whole
from pinakes.engine.seeds import isolated
from pinakes.lab.cells import Cell
from pinakes.lab.intervals import or_nan, or_none
from pinakes.lab.judging import give_back

log = logging.getLogger(__name__)

FILE = "untrained.json"
"""In a cell's folder: the metrics of its method before it learnt."""
JUDGED_UNTRAINED = ("representation",)
"""The tasks whose methods say something of an image before they have learnt."""


def judge_untrained(cell: Cell, data: TaskData, comparison: Path) -> dict[str, float]:
    """Judges the method of a finished cell as it was before it learnt, unless the cell's folder says it already.

    Args:
        cell: The method and its seed, with a folder that has been written.
        data: What to judge on.
        comparison: The comparison's folder.

    Returns:
        The metrics by name; none where the method cannot be judged so, which is logged.
    """
    file = cell.folder(comparison) / FILE
    try:
        kept = json.loads(file.read_text())
        return dict(zip(kept, or_nan(kept.values()), strict=True))
    except (FileNotFoundError, ValueError, AttributeError):
        pass
    try:
        found = _metrics(cell, data)
    except Exception as error:  # the cell has its result, whatever is wrong with this one
        log.warning("%s cannot be judged untrained: %s", cell.paper.slug, error)
        return {}
    finally:
        give_back()
    values = {name: or_none(value) for name, value in found.items()}
    write_whole(file, json.dumps(values, allow_nan=False).encode())
    return found


def _metrics(cell: Cell, data: TaskData) -> dict[str, float]:
    method = pinakes.create(cell.paper.slug, **cell.options)
    plan = TrainingPlan().settled(method.training_defaults, {**cell.settings, "seed": cell.seed})
    method.prepare(data.info, seed=cell.seed).to(torch_device(plan.device)).eval()
    with isolated(cell.seed):
        return method.evaluate(data, workers=plan.workers)
