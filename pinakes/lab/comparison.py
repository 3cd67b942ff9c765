"""What a comparison is of: its data, the test samples it shows, and how to repeat it; kept in its folder."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pinakes
from pinakes.errors import UserError
from pinakes.lab.cells import Picture

FILE = "comparison.json"
TRUTH = "truth.json"
PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy")


@dataclass(frozen=True)
class Shown:
    """A test sample that the report shows.

    Args:
        index: Its place in the test set.
        name: Its file or name.
        group: Its kind.
        pictures: The sample and its truth.
    """

    index: int
    name: str
    group: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Comparison:
    """The description of a comparison.

    Args:
        task: Name of the task.
        title: Title of the task.
        identity: What the data is, whatever its size in pixels; another one needs another folder.
        data: What is in the data, as `pinakes.data.summary.describe` says it.
        sheet: A contact sheet of the data.
        shown: The test samples that are shown.
        methods: The methods.
        seeds: The seeds.
        command: The command that repeats the comparison.
        call: The same in Python.
        versions: What ran, by name.
        machine: What it ran on.
        date: When it was last started, in UTC.
        omission: Which papers of a shelf are left out, and why; empty where none are.
    """

    task: str
    title: str
    identity: str
    data: Mapping[str, Any]
    sheet: Picture
    shown: tuple[Shown, ...]
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    command: str = ""
    call: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    date: str = ""
    omission: str = ""

    def save(self, folder: Path) -> None:
        """Writes the description to the comparison's folder.

        Raises:
            UserError: If it cannot be written.
        """
        from pinakes.engine.runs import write_whole

        write_whole(folder / FILE, json.dumps(asdict(self), indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "Comparison":
        """Reads the description in a comparison's folder.

        Raises:
            UserError: If there is none or it is damaged.
        """
        path = folder / FILE
        if not path.is_file():
            raise UserError(f"{folder}: holds no comparison (no {FILE}); give a folder that compare wrote")
        try:
            values = json.loads(path.read_text())
            listed = {name: tuple(values[name]) for name in ("methods", "seeds")}
            shown = tuple(
                Shown(**{**sample, "pictures": tuple(Picture(**picture) for picture in sample["pictures"])})
                for sample in values["shown"]
            )
            return cls(**{**values, **listed, "sheet": Picture(**values["sheet"]), "shown": shown})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: is damaged ({error}); give another folder, or remove this one"
            ) from error


def machine(device: str) -> str:
    """What this machine is, in words.

    Args:
        device: What is computed on, such as "NVIDIA H200".
    """
    return f"{device} ({platform.system()} {platform.machine()}, {os.cpu_count()} cores)"


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that bear on results."""
    found = {"pinakes": pinakes.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def now() -> str:
    """The time in UTC, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def as_call(subject: str, data: str, arguments: Mapping[str, Any]) -> str:
    """The Python call that repeats a comparison.

    Args:
        subject: The task or shelf that was named.
        data: The spec.
        arguments: What was given by name.
    """
    given = [f"{name}={value!r}" for name, value in arguments.items()]
    return f"pinakes.compare({', '.join([repr(subject), repr(data), *given])})"


def as_words(subject: str, data: str, arguments: Mapping[str, Any]) -> list[str]:
    """The words of the command that repeats a comparison, to be quoted for the shell.

    Args:
        subject: The task or shelf that was named.
        data: The spec.
        arguments: What was given by name; `options` becomes a --set for each.
    """
    words = ["pinakes", "compare", subject, "--data", data]
    for name, value in arguments.items():
        if name == "options":
            pairs = [(slug, each, v) for slug, options in value.items() for each, v in options.items()]
            for slug, each, v in pairs:
                words += ["--set", f"{slug}.{each}={_as_word(v)}"]
        elif value is True:
            words.append(_flag(name))
        elif name == "size" and not isinstance(value, int):
            words += [_flag(name), "x".join(str(side) for side in value)]
        else:
            words += [_flag(name), _as_word(value)]
    return words


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _as_word(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(str(each) for each in value)
    return str(value)
