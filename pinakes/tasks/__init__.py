"""The tasks: one module each, holding one `TASK` that states batches, predictions, metrics and pictures."""

import importlib
import pkgutil
from typing import TYPE_CHECKING

from pinakes.errors import UserError, suggest

if TYPE_CHECKING:
    from pinakes.tasks.base import Task


def names() -> list[str]:
    """The names of all tasks."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def get(name: str) -> "Task":
    """The task with this name.

    Raises:
        UserError: If there is none; suggests the nearest.
    """
    if name not in names():
        raise UserError(f"no task is called '{name}'{suggest(name, names())}")
    task: Task = importlib.import_module(f"{__name__}.{name}").TASK
    return task
