"""Which test samples a comparison shows, the same for every method, and how their pictures are written."""

import functools
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pinakes.data.base import Sample, SampleSet
from pinakes.lab.cells import Picture
from pinakes.tasks.base import Panel, Task

SHOWN = 24
LARGEST = 256
QUALITY = 82

Truth = dict[str, list[Any]]
"""What is known of each test sample as words and whole numbers, by the task's names: {"label": [0, 1], ...}."""


def read_truth(task: Task, samples: SampleSet, *, workers: int = 0) -> Truth:
    """Goes through the samples once and keeps the words and whole numbers that the task states as their truth.

    Args:
        task: The task.
        samples: The test samples; none is held.
        workers: Processes that load.
    """
    names = [
        name
        for name, stated in task.truth.items()
        if stated.dimensions == ["batch"]
        and not stated.ragged
        and (stated.dtype is str or not _is_float(stated.dtype))
    ]
    truth: Truth = defaultdict(list)
    if not names:
        return {}
    for found in DataLoader(
        samples,  # type: ignore[arg-type]  # any map-style set serves
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),
        collate_fn=functools.partial(_plain, names=names),
    ):
        for name, value in found.items():
            truth[name].append(value)
    return {name: values for name, values in truth.items() if len(values) == len(samples)}


def _is_float(dtype: Any) -> bool:
    return isinstance(dtype, torch.dtype) and dtype.is_floating_point


def _plain(sample: Sample, names: Sequence[str]) -> dict[str, Any]:
    found = {name: sample[name] for name in names if name in sample}
    return {name: value if isinstance(value, str) else int(value) for name, value in found.items()}


def group_names(truth: Truth, length: int, classes: Sequence[str]) -> list[str]:
    """What to call the kind of each sample: its word, else the name of its class, else nothing."""
    for values in truth.values():
        if isinstance(values[0], str):
            return [str(value) for value in values]
    for values in truth.values():
        return [classes[value] if 0 <= value < len(classes) else str(value) for value in values]
    return [""] * length


def choose(truth: Truth, length: int, *, count: int = SHOWN, seed: int = 0) -> list[int]:
    """Chooses test samples to show, as many of each kind as there is room for.

    Args:
        truth: What is known of each sample; samples with equal values are of one kind.
        length: Number of samples.
        count: How many to choose at most.
        seed: Seed of the choice within a kind.

    Returns:
        Indices, kind by kind in the order of the kinds' values, ascending within one.
    """
    kinds: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index in range(length):
        kinds[tuple(values[index] for values in truth.values())].append(index)
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(kinds[kind]).tolist() for kind in sorted(kinds)]
    if len(shuffled) > count:
        shuffled = [shuffled[position] for position in sorted(rng.permutation(len(shuffled))[:count])]
    in_turn = [i for turn in zip_longest(*shuffled) for i in turn if i is not None]
    chosen = set(in_turn[:count])
    return [index for members in shuffled for index in sorted(chosen & set(members))]


def encode(
    folder: str, panels: Mapping[int, Iterable[Panel]]
) -> tuple[dict[int, tuple[Picture, ...]], dict[str, bytes]]:
    """Makes WebP files of panels.

    Args:
        folder: The folder of the files, to stand before their names.
        panels: Panels by the index of their test sample.

    Returns:
        The pictures by index, and the content of their files by name.
    """
    pictures: dict[int, tuple[Picture, ...]] = {}
    files: dict[str, bytes] = {}
    for index, several in panels.items():
        made = []
        for position, panel in enumerate(several):
            name = f"{folder}/{index:05d}-{position}.webp"
            width, height, files[name] = to_webp(panel.image)
            made.append(Picture(name, panel.caption, width, height))
        pictures[index] = tuple(made)
    return pictures, files


def to_webp(image: np.ndarray, *, largest: int = LARGEST) -> tuple[int, int, bytes]:
    """Width, height and content of a WebP file of a uint8 image, made smaller where it is larger than `largest`."""
    drawn = Image.fromarray(np.ascontiguousarray(image))
    drawn.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    drawn.save(content, "WEBP", quality=QUALITY, method=4)
    return *drawn.size, content.getvalue()
