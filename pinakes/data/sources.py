"""The sources of data by name. A new source is one file that holds a loader, and one line here.

A loader takes a `Request` and returns a `TaskData`. Its keyword-only parameters are the options that may follow
the question mark of a spec, annotated int, float, bool, str or `Literal[...]`, or `**words` where they depend on the
path; size, seed and channels are read for all sources and stand in the request.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pinakes.data.base import TaskData
from pinakes.errors import UserError

SOURCES = {
    "mvtec": "pinakes.data.mvtec:load",
    "folder": "pinakes.data.folder:load",
    "table": "pinakes.data.tables:load",
    "coco": "pinakes.data.coco:load",
    "masks": "pinakes.data.masks:load",
    "wds": "pinakes.data.shards:load",
    "digits": "pinakes.data.digits:load",
    "textures": "pinakes.data.textures:load",
    "faces": "pinakes.data.faces:load",
    "scenes": "pinakes.scenes.source:load",
}

Loader = Callable[..., TaskData]


@dataclass(frozen=True)
class Request:
    """What a loader is asked for.

    Args:
        spec: The words that load the same data again; goes into the `TaskData`.
        path: What stood after the colon of the spec; empty for built-in sets.
        size: Height and width in pixels, or None for what suits the data.
        seed: Seed of every random choice.
        channels: 3 for colour (grey images are repeated), 1 for grey.
        skip_bad: Whether files that cannot be used are left out rather than reported as an error.
    """

    spec: str
    path: str = ""
    size: tuple[int, int] | None = None
    seed: int = 0
    channels: int = 3
    skip_bad: bool = False

    @property
    def root(self) -> Path:
        """The path, with `~` resolved.

        Raises:
            UserError: If the spec has none.
        """
        if not self.path:
            raise UserError(f"'{self.spec}' names no path; write SOURCE:PATH, or ./{self.spec} for a folder")
        return Path(self.path).expanduser()

    def refuse_path(self) -> None:
        """Raises a UserError if the spec has a path; for sources that have no files."""
        if self.path:
            name = self.spec.partition(":")[0]
            raise UserError(f"'{name}' is a built-in set and takes no path; leave out ':{self.path}'")


def loader(scheme: str) -> Loader:
    """Imports and returns the loader of a source."""
    module, _, name = SOURCES[scheme].partition(":")
    found: Loader = getattr(importlib.import_module(module), name)
    return found
