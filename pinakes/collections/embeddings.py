"""The embeddings of a collection: computed by a fitted method, written to a file and read again."""

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

import pinakes
from pinakes import tasks
from pinakes.collections.images import Images, open_images
from pinakes.engine.runs import read_description
from pinakes.errors import UserError, suggest
from pinakes.method import Method
from pinakes.tasks.base import Batch

FORMATS = (".npz", ".parquet")


@dataclass(frozen=True)
class Embedded:
    """A collection with the embedding of each of its images.

    Args:
        images: The images.
        embedding: One row for each, in their order, on the CPU.
        method: The method that gave them, as the catalogue calls it.
        device: Where the method ran, and where work on all rows goes on.
    """

    images: Images
    embedding: Float[Tensor, "images width"]
    method: str
    device: torch.device


@dataclass(frozen=True)
class Rows:
    """What `write_embeddings` wrote, read again.

    Args:
        paths: What each image is called.
        classes: The class of each, or an empty string.
        embedding: One row for each.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    embedding: Float[np.ndarray, "images width"]


def load_encoder(run: str | Path, *, device: str = "cpu") -> Method:
    """Loads a fitted method that answers images with an embedding.

    Args:
        run: A run folder.
        device: "auto", "cpu", "cuda" or "cuda:1".

    Raises:
        UserError: If the folder holds no run, a damaged one, or one of a method that gives no embedding.
    """
    slug = read_description(Path(run))["method"]
    task = pinakes.find(slug).task
    if "embedding" not in tasks.get(task).prediction:
        raise UserError(
            f"{run}: holds a run of '{slug}', of the task {task}, which gives no embedding of an image; give one of "
            "the task representation (pinakes list --task representation)"
        )
    return pinakes.load(run, device=device)


def embed(
    method: Method,
    source: str | Path,
    *,
    skip_bad: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = False,
) -> Embedded:
    """Computes the embedding of each image of a collection; of the images only a few are held at a time.

    Args:
        method: A fitted method of the task `representation`.
        source: A folder of any layout, or a data spec.
        skip_bad: Leave out files that cannot be used, and list them.
        batch_size: Images at a time.
        workers: Processes that load images; 0 loads in this one.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If there is no image, a file cannot be used, or an embedding is not finite.

    Example:
        >>> import pinakes
        >>> method = pinakes.create("random-weights").prepare(pinakes.DataInfo(3, (32, 32)))
        >>> embed(method, "digits?n=10").embedding.shape[0]
        30
    """
    images = open_images(source, method.info, skip_bad=skip_bad)
    rows: Tensor | None = None
    done = 0
    asked = answered(
        method,
        images,
        lambda batch: method.predict(batch)["embedding"],
        batch_size=batch_size,
        workers=workers,
        progress=progress,
    )
    for found in asked:
        bad = ~found.isfinite().all(1)
        if bad.any():
            name = images.names[done + int(bad.nonzero()[0])]
            raise UserError(f"{name}: its embedding is not finite; fit the method again")
        if rows is None:
            rows = torch.empty(len(images), found.shape[1])
        rows[done : done + len(found)] = found
        done += len(found)
    assert rows is not None  # there is at least one image
    return Embedded(images, rows, name_of(method), method.device)


def answered(
    method: Method,
    images: Images,
    ask: Callable[[Batch], Float[Tensor, "batch numbers"]],
    *,
    batch_size: int = 32,
    workers: int = 0,
    progress: bool = False,
) -> Iterator[Float[Tensor, "batch numbers"]]:
    """Some numbers for each image of a collection, batch by batch in their order, on the CPU.

    Args:
        method: A fitted method, which says how images make a batch.
        images: The collection.
        ask: From a batch to the numbers.
        batch_size: Images at a time.
        workers: Processes that load images; 0 loads in this one.
        progress: Whether to show a progress bar.
    """
    loader: DataLoader[Batch] = DataLoader(
        images, batch_size=batch_size, num_workers=workers, collate_fn=method.task.collate
    )
    with tqdm(total=len(images), desc="images", disable=not progress, leave=False) as bar:
        for batch in loader:
            found = ask(batch).float().cpu()
            yield found
            bar.update(len(found))


def name_of(method: Method) -> str:
    """What the catalogue calls a method."""
    paper = method.paper()
    return paper.slug if paper else type(method).__name__


def check_format(file: str | Path) -> Path:
    """The file, if embeddings can be written to one of its name.

    Raises:
        UserError: If its ending is neither .npz nor .parquet, or the package for it is missing.
    """
    file = Path(file)
    if file.suffix not in FORMATS:
        raise UserError(
            f"{file}: embeddings are written as {' or '.join(FORMATS)}{suggest(file.suffix, FORMATS)}"
        )
    if file.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"{file}: parquet needs pyarrow; pip install 'pinakes[collections]', or write a .npz file"
        )
    return file


def write_embeddings(embedded: Embedded, file: str | Path) -> Path:
    """Writes paths, classes and embeddings to a file, which is there whole or not at all.

    A .npz file holds the arrays `path`, `class` (text) and `embedding` (float32). A .parquet file has a row for each
    image with columns of these names, `embedding` as a list of fixed length.

    Args:
        embedded: A collection.
        file: Ends in .npz or .parquet.

    Returns:
        The file.

    Raises:
        UserError: If the file's ending is another, a package is missing, or it cannot be written.
    """
    file = check_format(file)
    images, rows = embedded.images, embedded.embedding.numpy()
    with _whole(file) as part:
        if file.suffix == ".npz":
            with part.open("wb") as opened:
                texts = {"path": np.array(images.names), "class": np.array(images.kinds)}
                np.savez(opened, embedding=rows, **texts)  # type: ignore[arg-type]  # the names are not its options
        else:
            _write_parquet(embedded, rows, part)
    return file


def read_embeddings(file: str | Path) -> Rows:
    """Reads what `write_embeddings` wrote; nothing is ever unpickled.

    Raises:
        UserError: If there is no such file or it holds something else.
    """
    file = check_format(file)
    if not file.is_file():
        raise UserError(f"{file}: no such file; check the path")
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                return Rows(tuple(found["path"].tolist()), tuple(found["class"].tolist()), found["embedding"])
        parquet: Any = importlib.import_module("pyarrow.parquet")
        table = parquet.read_table(file)
        rows = table["embedding"].combine_chunks()
        width = rows.type.list_size
        values = rows.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
        return Rows(tuple(table["path"].to_pylist()), tuple(table["class"].to_pylist()), values)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: holds no embeddings ({error}); write it with pinakes embed") from error


def _write_parquet(embedded: Embedded, rows: np.ndarray, part: Path) -> None:
    pyarrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.reshape(-1)), rows.shape[1])
    table = pyarrow.table(
        {
            "path": pyarrow.array(embedded.images.names, pyarrow.string()),
            "class": pyarrow.array(embedded.images.kinds, pyarrow.string()),
            "embedding": vectors,
        }
    )
    parquet.write_table(table, part)


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A file to write to, which takes its place once it is complete."""
    part = file.with_name(f".{file.name}.part")
    try:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.replace(file)
        finally:
            if part.parent.is_dir():
                part.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UserError(f"{file}: cannot be written ({reason}); choose another file") from error
