"""Pinakes: the published methods of computer vision in working order.

The front door. Nothing heavy is imported until it is used: `import pinakes` does not import torch.

    import pinakes

    detector = pinakes.create("patchcore")
    detector.fit("path/to/parts")
    prediction = detector.predict("path/to/image.png")
    board = pinakes.compare("anomaly", data="path/to/parts")
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pinakes.catalogue import Paper, Shelf, find, search, shelves
from pinakes.errors import UserError, suggest

if TYPE_CHECKING:
    from pinakes.data import load_data as load_data
    from pinakes.data.base import DataInfo as DataInfo
    from pinakes.data.base import TaskData as TaskData
    from pinakes.lab.compare import compare as compare
    from pinakes.method import Method as Method

__version__ = "0.1.0"

_LAZY = {
    "compare": "pinakes.lab.compare:compare",
    "list": "pinakes.catalogue:papers",
    "load_data": "pinakes.data:load_data",
    "DataInfo": "pinakes.data.base:DataInfo",
    "TaskData": "pinakes.data.base:TaskData",
    "Method": "pinakes.method:Method",
}

__all__ = [
    "DataInfo",
    "Method",
    "Paper",
    "Shelf",
    "TaskData",
    "UserError",
    "compare",
    "create",
    "find",
    "list",
    "load",
    "load_data",
    "search",
    "shelves",
]


def create(slug: str, **options: Any) -> "Method":
    """Makes an unfitted method.

    Args:
        slug: Its name in the catalogue, such as "patchcore".
        **options: The paper's hyper-parameters; `pinakes show SLUG` lists them.

    Raises:
        UserError: If there is no such method or option (suggests the nearest), or a value is out of range.
    """
    method = find(slug).load()
    known = method.option_defaults()
    for name in options:
        if name not in known:
            raise UserError(f"{slug} has no option '{name}'{suggest(name, known)}")
    return method(**options)


def load(folder: str | Path, *, device: str = "cpu") -> "Method":
    """Loads a fitted method from a run folder, whichever method it is.

    Raises:
        UserError: If the folder holds no run or a damaged one.
    """
    from pinakes.engine.runs import read_description

    return find(read_description(Path(folder))["method"]).load().load(folder, device=device)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module, _, attribute = _LAZY[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module 'pinakes' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
