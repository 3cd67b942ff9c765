"""Where samples come from: folders of images and standard layouts, and sets that are always at hand.

    data = load_data("mvtec:parts/screws?size=128")
    data.train[0]["image"]      # float (3, 128, 128) in [0, 1]

The names below are imported when first used, so that `import pinakes.data` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from pinakes.data.base import DataInfo, Problem, TaskData

if TYPE_CHECKING:
    from pinakes.data.inputs import load_images
    from pinakes.data.loading import load_data

__all__ = ["DataInfo", "Problem", "TaskData", "load_data", "load_images"]

_LAZY = {"load_data": "pinakes.data.loading", "load_images": "pinakes.data.inputs"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
