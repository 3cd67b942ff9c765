"""An image of which a part is made anew: answers at its own size, and a sheet that shows them beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from pinakes.data.images import read_image, read_mask, to_tensor
from pinakes.errors import UserError
from pinakes.method import Method
from pinakes.report.pictures import SMALLEST, strip
from pinakes.tasks.base import Batch, Panel, Prediction, to_pixels

GREY = 0.5
"""How holes look in pictures."""
A_ROW = 6
"""Pictures side by side on a sheet."""
SHOWN_SIDE = 512
"""Height of a picture on a sheet in pixels, at most."""


@runtime_checkable
class Restorer(Protocol):
    """A method for inpainting that has several answers."""

    def restore(self, batch: Batch, *, seed: int = 0, first: int = 0) -> Prediction:
        """Answers, as the task states predictions.

        Args:
            batch: Images and holes, on the method's device.
            seed: Another seed gives other answers.
            first: The number of the first of them among all answers of the seed.
        """


@dataclass(frozen=True)
class WrittenEdits:
    """What `write_edits` wrote.

    Args:
        files: The answers.
        sheet: The picture with all of them.
        size: Height and width of the image, and of the answers.
        filled_at: Height and width at which the method filled the hole.
    """

    files: tuple[Path, ...]
    sheet: Path
    size: tuple[int, int]
    filled_at: tuple[int, int]


def write_edits(
    method: Method,
    image: str | Path,
    mask: str | Path,
    out: str | Path,
    *,
    n: int = 1,
    seed: int = 0,
    batch_size: int = 32,
    progress: bool = False,
) -> WrittenEdits:
    """Makes a marked part of an image anew, and leaves every other pixel as it is.

    An image of another size than the method's is filled at that size, to which it is stretched as images are for
    fitting; what fills the hole is enlarged to the image again, and is then less sharp than the rest. Nothing of what
    is marked gets into the answer.

    Several answers get numbers behind the name of the file. The sheet beside them shows the image, the hole and all
    answers.

    Args:
        method: A fitted method of the task inpainting.
        image: A file.
        mask: A file of the same size, not black where the image is to be made anew.
        out: Where to write the answer; its ending says of which kind the file is. Some kinds, such as JPEG, change all
            pixels a little.
        n: How many answers.
        seed: The same seed gives the same answers, however many are made at a time.
        batch_size: How many are made at a time.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If the method is of another task or has one answer only, a file cannot be read or written or is
            there already, or the mask does not fit.
    """
    if method.task.name != "inpainting":
        raise UserError(
            f"run: {type(method).__name__} is of the task {method.task.name} and fills no holes; give a run of the "
            "task inpainting"
        )
    if n > 1 and not isinstance(method, Restorer):
        raise UserError(f"n: {type(method).__name__} has one answer for an image; leave it out")
    files, sheet = _places(Path(out), n)
    pixels, marked = read_image(image), read_mask(mask)
    if marked.shape != pixels.shape[:2]:
        raise UserError(
            f"{mask}: has {_side_by_side(marked.shape)} pixels, but {image} has "
            f"{_side_by_side(pixels.shape[:2])}; give a mask of the same size"
        )
    if not marked.any():
        raise UserError(f"{mask}: marks nothing, all of it is black; make white what is to be made anew")
    size, hole = (pixels.shape[0], pixels.shape[1]), torch.from_numpy(marked)
    whole = to_tensor(pixels, size, method.info.channels)
    shown, missing = fitted(whole, hole, method.info.size)
    if missing.all():
        height, width = method.info.size
        raise UserError(
            f"{mask}: leaves nothing of the image, seen at the {width}x{height} pixels of the run; mark less of it"
        )
    answers = _answers(method, shown, missing, n, seed=seed, batch_size=batch_size, progress=progress)
    enlarged = answers if answers.shape[-2:] == hole.shape else _resized(answers, size)
    edited = torch.where(hole, enlarged.clamp(0, 1), whole)
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        for file, each in zip(files, edited, strict=True):
            Image.fromarray(to_pixels(each)).save(file)
        _sheet(whole, hole, edited).save(sheet)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}); choose another place"
        ) from error
    return WrittenEdits(files, sheet, size, method.info.size)


def fitted(
    image: Float[Tensor, "channels height width"], hole: Bool[Tensor, "height width"], size: tuple[int, int]
) -> tuple[Float[Tensor, "channels _rows _columns"], Bool[Tensor, "_rows _columns"]]:
    """An image with a hole, stretched to another size; what is in the hole has no part in it.

    Args:
        image: The image.
        hole: Where it counts for nothing.
        size: Height and width.

    Returns:
        The image, 0 in the hole, and the hole: all pixels that any of the old one lies in.
    """
    if tuple(image.shape[-2:]) == size:
        return image.masked_fill(hole, 0), hole
    known = (~hole).to(image)[None]
    share = _resized(known[None], size)[0]
    mean = _resized((image * known)[None], size)[0] / share.clamp(min=1e-6)
    missing = functional.adaptive_max_pool2d(hole[None].float(), size)[0] > 0
    return mean.clamp(0, 1).masked_fill(missing, 0), missing


def _resized(
    image: Float[Tensor, "batch channels _height _width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels _rows _columns"]:
    return functional.interpolate(image, size, mode="bilinear", antialias=True)


def _answers(
    method: Method,
    image: Float[Tensor, "channels height width"],
    hole: Bool[Tensor, "height width"],
    n: int,
    *,
    seed: int,
    batch_size: int,
    progress: bool,
) -> Float[Tensor, "answers channels height width"]:
    """What fills the hole, and the rest as the method gives it."""
    made = []
    with tqdm(total=n, desc="answers", disable=not progress, leave=False) as bar:
        for first in range(0, n, batch_size):
            count = min(batch_size, n - first)
            batch = {"image": image.expand(count, -1, -1, -1), "hole": hole.expand(count, -1, -1)}
            method.task.check_batch(batch, method.info)
            if isinstance(method, Restorer):
                moved = {name: value.to(method.device) for name, value in batch.items()}
                found = method.restore(moved, seed=seed, first=first)
            else:
                found = method.predict(batch)
            made.append(found["restored"].cpu())
            bar.update(count)
    return torch.cat(made)


def _places(out: Path, n: int) -> tuple[tuple[Path, ...], Path]:
    """The files of the answers and the sheet, none of which there is yet."""
    if out.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"{out}: its ending is none of an image's; end it with .png")
    digits = len(str(n - 1))
    names = [""] if n == 1 else [f"-{number:0{digits}d}" for number in range(n)]
    files = tuple(out.with_stem(out.stem + name) for name in names)
    sheet = out.with_name(f"{out.stem}-sheet.png")
    for file in (*files, sheet):
        if file.exists():
            raise UserError(f"{file}: is there already; choose another name with --out")
    return files, sheet


def _side_by_side(shape: Sequence[int]) -> str:
    return f"{shape[1]}x{shape[0]}"


def _sheet(
    image: Float[Tensor, "channels height width"],
    hole: Bool[Tensor, "height width"],
    edited: Float[Tensor, "answers channels height width"],
) -> Image.Image:
    """The image, its hole in grey, and all answers, in rows."""
    panels = [
        Panel(to_pixels(image), "image"),
        Panel(to_pixels(image.masked_fill(hole, GREY)), "with the hole"),
        *(Panel(to_pixels(each), f"answer {number}") for number, each in enumerate(edited)),
    ]
    height = min(SHOWN_SIDE, max(SMALLEST, image.shape[-2]))
    rows = [strip(panels[first : first + A_ROW], height=height) for first in range(0, len(panels), A_ROW)]
    page = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        page.paste(row, (0, top))
        top += row.height
    return page
