"""Which command uses a fitted method."""

import shlex
from pathlib import Path

INSTEAD = {"generation": "sample {run} --out DIR", "inpainting": "edit {run} IMAGE --mask MASK --out FILE"}
"""Tasks whose methods answer something else than an image alone."""


def use_of(task: str, run: str | Path) -> str:
    """The command line by which a run of a task is used.

    Args:
        task: The task's name.
        run: The run folder.
    """
    return "pinakes " + INSTEAD.get(task, "predict {run} IMAGES").format(run=shlex.quote(str(run)))
