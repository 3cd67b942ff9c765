"""Describes a comparison in its folder: what data, which test samples are shown, how to repeat it."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pinakes
from pinakes.data.base import TaskData
from pinakes.data.sources import SOURCES
from pinakes.data.spec import Spec
from pinakes.data.summary import contact_sheet
from pinakes.data.summary import describe as describe_data
from pinakes.engine.runs import write_whole
from pinakes.errors import UserError
from pinakes.lab import comparison
from pinakes.lab.cells import Picture
from pinakes.lab.comparison import Comparison, Shown
from pinakes.lab.pictures import choose, encode, group_names, read_truth, to_webp
from pinakes.lab.subject import Subject
from pinakes.tasks.base import Task

SHEET = "contact-sheet.webp"
SHEET_PIXELS = 2400


def describe(
    folder: Path,
    task: Task,
    data: TaskData,
    *,
    subject: Subject,
    methods: Sequence[str],
    seeds: int,
    device: torch.device,
    spec: str,
    arguments: Mapping[str, Any],
    workers: int = 0,
) -> Comparison:
    """Writes what is compared to the folder of a comparison; what is there already of the same data is kept.

    Args:
        folder: The comparison's folder.
        task: The task.
        data: The data, with a test part.
        subject: What was named to be compared.
        methods: Names of the methods.
        seeds: How many seeds.
        device: What is computed on.
        spec: The data in the words that were given.
        arguments: What else was given, by name.
        workers: Processes that load.

    Raises:
        UserError: If the folder holds a comparison of another task or other data, or cannot be written.
    """
    kept = _earlier(folder, task, data) or _draw(folder, task, data, workers)
    description = replace(
        kept,
        methods=tuple(methods),
        seeds=tuple(range(seeds)),
        command=shlex.join(comparison.as_words(subject.name, spec, arguments)),
        call=comparison.as_call(subject.name, spec, arguments),
        omission=subject.omission,
        versions=comparison.versions(),
        machine=comparison.machine(_spoken(device)),
        date=comparison.now(),
    )
    description.save(folder)
    return description


def data_name(spec: str) -> str:
    """A name for a folder from the words of a spec: the last part of its path, or the name of the set.

    Example:
        >>> data_name("textures?size=64"), data_name("scenes:depth?n=8"), data_name("mvtec:parts/screws")
        ('textures', 'scenes-depth', 'screws')
    """
    parsed = Spec.parse(spec, SOURCES)
    if not parsed.path:
        name = parsed.scheme
    elif parsed.scheme == "scenes":
        name = f"{parsed.scheme}-{parsed.path}"
    else:
        name = Path(parsed.path).expanduser().resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "data"


def identity(spec: str) -> str:
    """What data a spec means, whatever its size in pixels and the folder from which it is named."""
    parsed = Spec.parse(spec, SOURCES)
    path = Path(parsed.path).expanduser()
    return str(
        replace(
            parsed,
            path=str(path.resolve()) if parsed.path and path.exists() else parsed.path,
            options={name: value for name, value in parsed.options.items() if name != "size"},
        )
    )


def _earlier(folder: Path, task: Task, data: TaskData) -> Comparison | None:
    if not (folder / comparison.FILE).exists():
        return None
    earlier = Comparison.load(folder)
    if (earlier.task, earlier.identity) != (task.name, identity(data.spec)):
        raise UserError(
            f"{folder}: holds another comparison ({earlier.task} on {earlier.identity}); give another folder with out"
        )
    pictures = [earlier.sheet, *(picture for sample in earlier.shown for picture in sample.pictures)]
    whole = all(
        (folder / name).is_file() for name in [comparison.TRUTH, *(picture.file for picture in pictures)]
    )
    same = (
        earlier.data["fingerprint"] == data.fingerprint()
        and earlier.versions["pinakes"] == pinakes.__version__
    )
    return earlier if same and whole else None


def _draw(folder: Path, task: Task, data: TaskData, workers: int) -> Comparison:
    assert data.test is not None
    truth = read_truth(task, data.test, workers=workers)
    groups = group_names(truth, len(data.test), data.classes)
    chosen = choose(truth, len(data.test))
    samples = {index: data.test[index] for index in chosen}
    pictures, files = encode(
        "samples", {index: task.draw_sample(sample, data.info) for index, sample in samples.items()}
    )
    width, height, content = to_webp(np.asarray(contact_sheet(data, task)), largest=SHEET_PIXELS)
    files |= {SHEET: content, comparison.TRUTH: json.dumps(truth).encode()}
    for name, content in files.items():
        write_whole(folder / name, content)
    return Comparison(
        task=task.name,
        title=task.title,
        identity=identity(data.spec),
        data=describe_data(data),
        sheet=Picture(SHEET, "", width, height),
        shown=tuple(
            Shown(
                index, str(samples[index].get("path", f"test image {index}")), groups[index], pictures[index]
            )
            for index in chosen
        ),
    )


def _spoken(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the {device.type.upper()} with {threads} thread{'s' * (threads != 1)}"
