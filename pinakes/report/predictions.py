"""Predictions on disk: one line of JSON and one picture an image."""

import functools
import itertools
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pinakes.data import load_images
from pinakes.data.base import Problem, Sample
from pinakes.data.images import read_image, to_tensor
from pinakes.data.inputs import InputImages
from pinakes.data.tiles import Tiling
from pinakes.engine.tiling import predict_tiles
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.report.maps import MapFiles, from_afar
from pinakes.report.pictures import strip
from pinakes.tasks.base import IMAGE, Field, Prediction, to_pixels, unbatch

FILE = "predictions.jsonl"
PICTURES = "pictures"
SCALE_IMAGES = 256
SCALE_PIXELS = 2**24
SHOWN_SIDE = 1024
"""Pixels of the longer side of a tiled image in its picture, at most."""


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
    tile: int | None = None,
    overlap: int | None = None,
) -> WrittenPredictions:
    """Predicts image files and writes what the method says of each, in memory that does not grow with their number.

    `predictions.jsonl` has one object an image: its `path`, every value of the prediction, and `picture`. Values for
    each class are an object by the names of the classes. Images, such as restored ones, lie in `NAME/*.png`; other
    values that are stated for each pixel lie in `NAME/*.npy` as the method gives them (float32). The object holds the
    path. All paths of files written are relative to `out`. The pictures, `pictures/*.png`, show the task's panels.

    With `tile`, each image is cut as `pinakes.engine.tiling` says, and its maps have its own resolution: `NAME/*.npy`
    in float16, or float32 where that cannot hold a value. They are written row by row, and pictures are scaled down to
    at most 1024 pixels a side; a map shows the highest value of what becomes one pixel.

    Pictures share one scale, such as that of a heat map's colours: the task's `scale` over the first 256 images, or
    over fewer where images are large.

    Args:
        method: A fitted method.
        inputs: An image file, a folder (with everything below it), or several of these.
        out: The folder to write to.
        skip_bad: Leave out files that cannot be read, and list them.
        batch_size: Images at a time; with `tile`, tiles.
        workers: Processes that load images; 0 loads in this one, as it is with `tile`.
        progress: Whether to show a progress bar.
        tile: Side of a tile in pixels of the original image; by default images are taken whole.
        overlap: Pixels that neighbouring tiles share; by default a quarter of `tile`.

    Raises:
        UserError: If there is no image, one cannot be read (before anything is written), the folder cannot be
            written, or the answers cannot be put together from tiles.

    Example:
        >>> import pinakes
        >>> detector = pinakes.load("runs/parts")  # doctest: +SKIP
        >>> write_predictions(detector, "new_parts", "found").count  # doctest: +SKIP
        12
    """
    if tile is None and overlap is not None:
        raise UserError("overlap: is that of tiles; give tile as well")
    tiling = None if tile is None else Tiling(tile, overlap)
    images = load_images(inputs, method.info, skip_bad=skip_bad)
    folder = Path(out)
    names = _names(images.paths)
    if tiling is None:
        loader = DataLoader(
            images, batch_size=batch_size, num_workers=workers, collate_fn=method.task.collate
        )
        answered = _answers(method, loader)
        height, width = method.info.size
    else:
        answered = _tiled_answers(method, images, names, folder, tiling, batch_size)
        height = width = SHOWN_SIDE
    part = folder / f".{FILE}.part"
    try:
        with closing(answered):
            first = list(
                itertools.islice(answered, max(1, min(SCALE_IMAGES, SCALE_PIXELS // (height * width))))
            )
            scale = method.task.scale([answer.prediction for answer in first])
            folder.mkdir(parents=True, exist_ok=True)
            with (
                part.open("w", encoding="utf-8") as lines,
                tqdm(total=len(images), desc="images", disable=not progress, leave=False) as bar,
            ):
                for name, answer in zip(names, itertools.chain(_released(first), answered), strict=True):
                    _draw(method, answer, scale, _place(folder, PICTURES, name, ".png"))
                    line = {
                        "path": str(answer.sample["path"]),
                        **_values(folder, method, name, answer),
                        "picture": f"{PICTURES}/{name}.png",
                    }
                    lines.write(json.dumps(line) + "\n")
                    bar.update()
        part.replace(folder / FILE)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from error
    finally:
        _remove(part)
    return WrittenPredictions(folder, folder / FILE, folder / PICTURES, len(images), images.skipped)


@dataclass(frozen=True)
class _Answer:
    """One image, what the method says of it, both as they are drawn, and its maps that are written already."""

    sample: Sample
    prediction: Prediction
    maps: dict[str, Path] = field(default_factory=dict)


def _remove(part: Path) -> None:
    """Removes what an interruption left; where the folder could not be made there is nothing."""
    if part.parent.is_dir():
        part.unlink(missing_ok=True)


def _answers(method: Method, loader: DataLoader[Any]) -> Generator[_Answer, None, None]:
    for batch in loader:
        answer = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in method.predict(batch).items()}
        for index in range(len(batch["path"])):
            yield _Answer(unbatch(batch, index), unbatch(answer, index))


def _tiled_answers(
    method: Method, images: InputImages, names: Sequence[str], folder: Path, tiling: Tiling, batch_size: int
) -> Generator[_Answer, None, None]:
    for name, path in zip(names, images.paths, strict=True):
        pixels = read_image(path)
        size = pixels.shape[:2]
        files = MapFiles(functools.partial(_map_place, folder, name), size)
        try:
            scores = predict_tiles(method, pixels, tiling, batch_size=batch_size, rows=files)
            maps = files.close()
        finally:
            files.discard()
        step = -(-max(size) // SHOWN_SIDE)
        shown = (-(-size[0] // step), -(-size[1] // step))
        seen = {key: torch.from_numpy(from_afar(place, step)) for key, place in maps.items()}
        sample = {"image": to_tensor(pixels, shown, method.info.channels), "path": path}
        yield _Answer(sample, {**scores, **seen}, maps)


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


def _map_place(folder: Path, name: str, key: str) -> Path:
    return _place(folder, key, name, ".npy")


def _draw(method: Method, answer: _Answer, scale: Any, path: Path) -> None:
    shown = method.task.draw_sample(answer.sample, method.info) + method.task.draw_prediction(
        answer.sample, answer.prediction, scale
    )
    strip(shown).save(path)


def _is_image(stated: Field, value: Tensor) -> bool:
    """Whether a value is grey or coloured, between black and white."""
    return (
        stated.dimensions == IMAGE.dimensions and (stated.low, stated.high) == (0, 1) and len(value) in {1, 3}
    )


def _values(folder: Path, method: Method, name: str, answer: _Answer) -> dict[str, Any]:
    """The prediction as JSON, values of classes by their names; a value for each pixel goes to a file, whose path
    stands for it."""
    values = {}
    for key, value in answer.prediction.items():
        stated = method.task.prediction.get(key, Field(""))
        if not isinstance(value, Tensor):
            values[key] = value
        elif {"height", "width"} <= set(stated.dimensions):
            path = answer.maps.get(key)
            if path is None and _is_image(stated, value):
                path = _place(folder, key, name, ".png")
                Image.fromarray(to_pixels(value)).save(path)
            elif path is None:
                path = _map_place(folder, name, key)
                np.save(path, value.numpy())
            values[key] = path.relative_to(folder).as_posix()
        elif stated.dimensions == ["batch", "classes"] and len(value) == len(method.info.classes):
            values[key] = dict(zip(method.info.classes, value.tolist(), strict=True))
        else:
            values[key] = value.item() if value.ndim == 0 else value.tolist()
    return values
