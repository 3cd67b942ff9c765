"""A collection as a map: images that are alike to a method lie near to each other, on a page to look around in."""

import importlib
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from pinakes.collections import pages
from pinakes.collections.embeddings import Embedded
from pinakes.collections.images import Images
from pinakes.errors import UserError, suggest

By = Literal["pca", "umap"]

SCALE = 10_000
"""Coordinates in the page are whole numbers up to this one."""
THUMBNAILS = ((2_000, 96), (6_000, 64), (20_000, 40))
"""How many images at most have thumbnails of how many pixels a side; beyond the last, evenly spaced ones have any."""
SHEET = 2048
"""Pixels of a side of a sheet of thumbnails, at most."""
SHEET_QUALITY = 70
NAMED_CLASSES = 60
"""Classes that the legend names, at most; images of the others are drawn without colour."""


@dataclass(frozen=True)
class Map:
    """A map that was written.

    Args:
        file: The page.
        count: How many images it shows.
        pictured: How many of them have a thumbnail.
        classes: The classes that colours stand for, the most frequent first.
        about: What the two axes are.
    """

    file: Path
    count: int
    pictured: int
    classes: tuple[str, ...]
    about: str


def principal_plane(embedding: Float[Tensor, "images width"]) -> tuple[Float[Tensor, "images 2"], float]:
    """Where images lie in the plane of the two principal components, and the share of the variance that it holds.

    Exact, by the covariance. A component points where its largest weight is positive.

    Args:
        embedding: Two or more rows.
    """
    centred = (embedding - embedding.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.mT @ centred)
    axes = vectors.flip(1)[:, :2]
    signs = axes.gather(0, axes.abs().argmax(0)[None]).sign()
    places = centred @ (axes * torch.where(signs == 0, torch.ones_like(signs), signs))
    places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))
    total = float(values.clamp(min=0).sum())
    return places.float(), float(values[-2:].clamp(min=0).sum()) / total if total > 0 else 0.0


def umap_plane(embedding: Float[Tensor, "images width"]) -> Float[Tensor, "images 2"]:
    """Where UMAP puts images, by the cosine of their embeddings; the same each time.

    Args:
        embedding: Four or more rows.

    Raises:
        UserError: If umap-learn is not installed, or there are fewer images.
    """
    check_umap()
    if len(embedding) < 4:
        raise UserError(f"by: UMAP needs at least 4 images, got {len(embedding)}; take pca")
    umap: Any = importlib.import_module("umap")
    neighbours = min(15, len(embedding) - 1)
    start = "spectral" if len(embedding) > 15 else "random"
    model = umap.UMAP(n_neighbors=neighbours, metric="cosine", random_state=0, n_jobs=1, init=start)
    return torch.from_numpy(np.asarray(model.fit_transform(embedding.cpu().numpy()), dtype=np.float32))


def check_request(file: str | Path, by: str) -> Path:
    """The page to write, if it is called one, the way to draw it is known and what that needs is installed.

    Raises:
        UserError: If not.
    """
    file = Path(file)
    if file.suffix not in {".html", ".htm"}:
        raise UserError(f"{file}: a map is a page; choose a file that ends in .html")
    if by not in get_args(By):
        raise UserError(f"by: '{by}' is no way to draw a map{suggest(by, get_args(By))}")
    if by == "umap":
        check_umap()
    return file


def check_umap() -> None:
    """Makes sure that umap-learn is there.

    Raises:
        UserError: If not.
    """
    if importlib.util.find_spec("umap") is None:
        raise UserError("by: umap needs umap-learn; pip install 'pinakes[collections]', or take pca")


def write_map(embedded: Embedded, file: str | Path, *, by: str = "pca", progress: bool = False) -> Map:
    """Draws a collection as a map on a page that needs no other file and no network.

    Args:
        embedded: The collection with its embeddings.
        file: The page.
        by: "pca", the plane of the two principal components of the embeddings, or "umap", for which umap-learn must be
            installed.
        progress: Whether to show a progress bar.

    Raises:
        UserError: If there is only one image, `by` is neither, a package is missing, or the page cannot be written.
    """
    images, file = embedded.images, check_request(file, by)
    if len(images) < 2:
        raise UserError(f"{images.source}: holds one image; a map needs two or more")
    if by == "umap":
        places, about = umap_plane(embedded.embedding), "UMAP of the cosine of embeddings"
    else:
        plane, share = principal_plane(embedded.embedding.to(embedded.device))
        places, about = plane.cpu(), f"two principal components, {share:.0%} of the variance"
    classes = _by_frequency(images)
    pictured, side = _pictured(len(images))
    sheets, sizes = _sheets(images, pictured, side, progress)
    numbers = {name: number for number, name in enumerate(classes[:NAMED_CLASSES])}
    x, y = _on_page(places)
    points: dict[str, Any] = {
        "x": x,
        "y": y,
        "names": list(images.names),
        "classes": list(numbers),
        "kinds": [numbers.get(kind, -1) for kind in images.kinds] if numbers else [],
        "pictured": pictured if len(pictured) < len(images) else None,
        "side": side,
        "columns": _columns(side),
        "sizes": sizes,
        "sheets": sheets,
    }
    pages.write(
        file,
        "map.html.jinja",
        points=points,
        title=images.title,
        about=images.about,
        axes=about,
        method=embedded.method,
        legend=[(name, images.kinds.count(name)) for name in numbers],
        unnamed=len(classes) - len(numbers),
        pictured=len(pictured),
        count=len(images),
        skipped=images.skipped,
    )
    return Map(file, len(images), len(pictured), tuple(numbers), about)


def _by_frequency(images: Images) -> list[str]:
    """The classes, in their own order if the legend holds them all, else the most frequent first; none if one."""
    if len(images.classes) < 2:
        return []
    if len(images.classes) <= NAMED_CLASSES:
        return list(images.classes)
    return sorted(images.classes, key=lambda name: (-images.kinds.count(name), name))


def _on_page(places: Tensor) -> tuple[list[int], list[int]]:
    """Whole coordinates from 0, downwards, with equal units on both axes."""
    low, high = places.amin(0), places.amax(0)
    unit = float((high - low).max()) or 1.0
    scaled = ((places - low) / unit * SCALE).round().long()
    return scaled[:, 0].tolist(), (int(scaled[:, 1].max()) - scaled[:, 1]).tolist()


def _pictured(count: int) -> tuple[list[int], int]:
    """Which images have thumbnails, and of how many pixels a side."""
    for most, side in THUMBNAILS:
        if count <= most:
            return list(range(count)), side
    most, side = THUMBNAILS[-1]
    return np.linspace(0, count - 1, most).round().astype(int).tolist(), side


def _columns(side: int) -> int:
    return SHEET // side


def _sheets(images: Images, places: Sequence[int], side: int, progress: bool) -> tuple[list[str], list[int]]:
    """Sheets of thumbnails as data URIs, and width and height of each thumbnail, one after the other."""
    columns = _columns(side)
    sheets: list[str] = []
    sizes: list[int] = []
    with (
        ThreadPoolExecutor(4) as pool,
        tqdm(total=len(places), desc="thumbnails", disable=not progress, leave=False) as bar,
    ):
        for start in range(0, len(places), columns**2):
            some = places[start : start + columns**2]
            rows = -(-len(some) // columns)
            sheet = Image.new("RGB", (min(len(some), columns) * side, rows * side))
            for number, drawn in enumerate(pool.map(lambda at: images.thumbnail(at, side), some)):
                sheet.paste(drawn, (number % columns * side, number // columns * side))
                sizes += drawn.size
                bar.update()
            sheets.append(pages.picture(sheet, quality=SHEET_QUALITY).uri)
    return sheets, sizes
