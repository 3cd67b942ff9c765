"""Images that a method makes, written to a folder: a file for each, and a sheet of all."""

from pathlib import Path
from typing import cast

import torch
from PIL import Image
from tqdm import tqdm

from pinakes.errors import UserError, suggest
from pinakes.method import Method
from pinakes.tasks.base import to_pixels
from pinakes.tasks.generation import Generator, grid

SHEET = "sheet.png"


def write_samples(
    method: Method,
    folder: Path,
    n: int,
    *,
    of: str = "",
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> Path:
    """Makes images and writes them as PNG files, `0000.png` and so on.

    The same seed gives the same images, however many are made at a time.

    Args:
        method: A fitted method of the task generation.
        folder: Where to write; it is made, and must not hold samples yet.
        n: How many, 1 or more.
        of: The name of the class that all are to have; empty for any.
        seed: Of the noise.
        batch_size: How many are made at a time.
        progress: Whether to show a progress bar.

    Returns:
        The sheet of all of them.

    Raises:
        UserError: If the method makes no images or knows no such class, or the folder holds samples.
    """
    if method.task.name != "generation":
        raise UserError(
            f"run: {type(method).__name__} is of the task {method.task.name} and makes no images; give a run of the "
            "task generation"
        )
    classes = method.info.classes
    if of and of not in classes:
        raise UserError(f"class: '{of}' is unknown{suggest(of, classes)}")
    if (folder / SHEET).exists():
        raise UserError(f"{folder}: holds samples already; choose another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    generator, made = cast("Generator", method), []
    with tqdm(total=n, desc="images", disable=not progress, leave=False) as bar:
        for start in range(0, n, batch_size):
            count = min(batch_size, n - start)
            labels = torch.full((count,), classes.index(of)) if of else None
            # by the image rather than by the batch, so that the size of a batch changes nothing
            found = generator.generate(count, labels=labels, seed=seed, first=start)
            if of and "label" not in found:
                raise UserError(f"class: this {type(method).__name__} was not told classes; leave it out")
            images = found["sample"].cpu()
            for place, image in enumerate(images, start=start):
                Image.fromarray(to_pixels(image)).save(folder / f"{place:04d}.png")
            made.append(images)
            bar.update(count)
    Image.fromarray(to_pixels(grid(torch.cat(made)))).save(folder / SHEET)
    return folder / SHEET
