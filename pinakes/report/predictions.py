"""Predictions on disk: one line of JSON and one picture an image."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pinakes.data import load_images
from pinakes.data.base import Problem, Sample
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.report.pictures import strip
from pinakes.tasks.base import Field, Prediction, unbatch

FILE = "predictions.jsonl"
PICTURES = "pictures"
SCALE_IMAGES = 256
SCALE_PIXELS = 2**24


@dataclass(frozen=True)
class WrittenPredictions:
    """What `write_predictions` wrote.

    Args:
        folder: The output folder.
        file: The lines of JSON in it.
        pictures: The folder of pictures in it.
        count: How many images were predicted.
        skipped: Files that were left out, and why.
    """

    folder: Path
    file: Path
    pictures: Path
    count: int
    skipped: tuple[Problem, ...]


def write_predictions(
    method: Method,
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    skip_bad: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = False,
) -> WrittenPredictions:
    """Predicts image files and writes what the method says of each, in memory that does not grow with their number.

    `predictions.jsonl` has one object an image: its `path`, every value of the prediction, and `picture`. Values
    that are stated for each pixel lie in `NAME/*.npy` as the method gives them (float32), and the object holds the
    path. All paths of files written are relative to `out`. The pictures, `pictures/*.png`, show the task's panels.

    Pictures share one scale, such as that of a heat map's colours: the task's `scale` over the first 256 images, or
    over fewer where images are large.

    Args:
        method: A fitted method.
        inputs: An image file, a folder (with everything below it), or several of these.
        out: The folder to write to.
        skip_bad: Leave out files that cannot be read, and list them.
        batch_size: Images at a time.
        workers: Processes that load images; 0 loads in this one.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If there is no image, one cannot be read (before anything is written), or the folder cannot be
            written.

    Example:
        >>> import pinakes
        >>> detector = pinakes.load("runs/parts")  # doctest: +SKIP
        >>> write_predictions(detector, "new_parts", "found").count  # doctest: +SKIP
        12
    """
    images = load_images(inputs, method.info, skip_bad=skip_bad)
    folder = Path(out)
    names = _names(images.paths)
    loader = DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=method.task.collate)
    answered = _answers(method, loader)
    height, width = method.info.size
    first = list(itertools.islice(answered, max(1, min(SCALE_IMAGES, SCALE_PIXELS // (height * width)))))
    scale = method.task.scale([prediction for _, prediction in first])
    part = folder / f".{FILE}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            part.open("w", encoding="utf-8") as lines,
            tqdm(total=len(images), desc="images", disable=not progress, leave=False) as bar,
        ):
            for name, (sample, prediction) in zip(
                names, itertools.chain(_released(first), answered), strict=True
            ):
                _draw(method, sample, prediction, scale, _place(folder, PICTURES, name, ".png"))
                values = {key: _value(folder, method, name, key, each) for key, each in prediction.items()}
                line = {"path": str(sample["path"]), **values, "picture": f"{PICTURES}/{name}.png"}
                lines.write(json.dumps(line) + "\n")
                bar.update()
        part.replace(folder / FILE)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    finally:
        _remove(part)
    return WrittenPredictions(folder, folder / FILE, folder / PICTURES, len(images), images.skipped)


def _remove(part: Path) -> None:
    """Removes what an interruption left; where the folder could not be made there is nothing."""
    if part.parent.is_dir():
        part.unlink(missing_ok=True)


def _answers(method: Method, loader: DataLoader[Any]) -> Iterator[tuple[Sample, Prediction]]:
    for batch in loader:
        answer = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in method.predict(batch).items()}
        for index in range(len(batch["path"])):
            yield unbatch(batch, index), unbatch(answer, index)


def _released(items: list[Any]) -> Iterator[Any]:
    """The items in order, each let go once it is used."""
    items.reverse()
    while items:
        yield items.pop()


def _names(paths: Sequence[str]) -> list[str]:
    """A name for each path, without ending: its place below the folder that all share, made unique."""
    files = [Path(path).absolute() for path in paths]
    shared = 0
    if len({file.parent for file in files}) > 1:
        columns = zip(*(file.parent.parts for file in files), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda parts: len(set(parts)) == 1, columns))
    names: dict[str, None] = {}
    for file in files:
        name = Path(*file.parts[shared:]).with_suffix("").as_posix() if shared else file.stem
        if name in names:
            name += file.suffix.replace(".", "_")
        tries = (name, *(f"{name}_{number}" for number in range(2, len(files) + 2)))
        names[next(each for each in tries if each not in names)] = None
    return list(names)


def _place(folder: Path, part: str, name: str, suffix: str) -> Path:
    path = folder / part / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _draw(method: Method, sample: Sample, prediction: Prediction, scale: Any, path: Path) -> None:
    shown = method.task.draw_sample(sample, method.info) + method.task.draw_prediction(
        sample, prediction, scale
    )
    strip(shown).save(path)


def _value(folder: Path, method: Method, name: str, key: str, value: Any) -> Any:
    """A value of a prediction as JSON; one for each pixel goes to a file, whose path stands for it."""
    if not isinstance(value, Tensor):
        return value
    field = method.task.prediction.get(key, Field(""))
    if {"height", "width"} <= set(field.dimensions):
        path = _place(folder, key, name, ".npy")
        np.save(path, value.numpy())
        return path.relative_to(folder).as_posix()
    return value.item() if value.ndim == 0 else value.tolist()
