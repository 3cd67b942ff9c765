"""Every file is looked at once before anything trains; what was found is remembered between runs."""

import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from pinakes.data.images import BadImage, opened, to_array

_VERSION = 1
_log = logging.getLogger(__name__)
_TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap height and width."""
_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an image file.

    Args:
        bytes: Length of the file.
        modified: When it was last changed, in nanoseconds since 1970.
        height: Rows of the image, after its EXIF orientation.
        width: Columns of the image, after its EXIF orientation.
        mode: Pillow's name of its pixel format, such as "RGB" or "I;16".
        blank: Whether nothing in it is brighter than black; of a mask: nothing is marked, as happens in public sets.
        problem: Why it cannot be used, or an empty string.
    """

    bytes: int
    modified: int
    height: int = 0
    width: int = 0
    mode: str = ""
    blank: bool = False
    problem: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


def inspect_files(root: Path, names: Iterable[str]) -> dict[str, Facts]:
    """Decodes every file once, in parallel, unless that was done before and the file has not changed since.

    JPEG files are decoded at an eighth of their size, which reads every byte and so finds cut and damaged files,
    in a fraction of the time.

    Args:
        root: Folder to which the names are relative.
        names: The files, relative to the root.

    Returns:
        The facts of each file, in the order of the names.
    """
    names = list(dict.fromkeys(names))
    memory = (
        cache_folder() / "images" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]}.json"
    )
    known = _recall(memory)

    facts = {name: _stat(root / name) for name in names}
    for name, fact in facts.items():
        before = known.get(name)
        if before is not None and (before.bytes, before.modified) == (fact.bytes, fact.modified):
            facts[name] = before
    unknown = [name for name, fact in facts.items() if not fact.mode and not fact.problem]
    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.filterwarnings("ignore", module="PIL")
        facts |= zip(unknown, pool.map(lambda name: _look(root / name, facts[name]), unknown), strict=True)
    fresh = {name: facts[name] for name in unknown if not facts[name].problem}
    if fresh:
        _remember(memory, known | fresh)
    return facts


def _stat(path: Path) -> Facts:
    try:
        found = path.stat()
    except OSError as error:
        return Facts(0, 0, problem=f"cannot be opened ({error.strerror})")
    return Facts(found.st_size, found.st_mtime_ns)


def _look(path: Path, fact: Facts) -> Facts:
    try:
        with opened(path) as image:
            width, height = image.size
            mode = image.mode
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            reduced = image.draft(None, (max(1, width // 8), max(1, height // 8)))
            pixels = to_array(image, paper=0)
            if not reduced:
                height, width = pixels.shape[:2]
            elif turned:
                height, width = width, height
    except BadImage as error:
        return replace(fact, problem=str(error))
    return replace(fact, height=height, width=width, mode=mode, blank=not pixels.any())


def cache_folder() -> Path:
    """Where Pinakes keeps what it can make again: `PINAKES_CACHE`, or the user's cache folder."""
    if chosen := os.environ.get("PINAKES_CACHE"):
        return Path(chosen).expanduser()
    try:
        home = Path.home()
    except RuntimeError:  # a container may run as a user who has none
        return Path(tempfile.gettempdir(), "pinakes")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "pinakes" / "Cache"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "pinakes"
    return Path(os.environ.get("XDG_CACHE_HOME", home / ".cache")) / "pinakes"


def _recall(memory: Path) -> dict[str, Facts]:
    try:
        stored = json.loads(memory.read_bytes())
        if stored["version"] != _VERSION:
            return {}
        return {name: Facts(*values) for name, values in stored["files"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.info("%s is not usable and will be made again: %s", memory, error)
        return {}


def _remember(memory: Path, facts: dict[str, Facts]) -> None:
    text = json.dumps({"version": _VERSION, "files": {name: astuple(fact) for name, fact in facts.items()}})
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).replace(memory)
    except OSError as error:
        _log.info(
            "the files will be checked again next time, because %s cannot be written: %s", memory, error
        )
