"""A collection without the images in which a detector finds something, such as people.

Nothing is removed: the images that are kept are listed, and linked or copied to a new folder. Detectors err, so the
page shows what should be looked at: of what is left out the least certain first, of what is kept the closest calls.
What a person decides then goes into two lists, and the same command takes them into account.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from PIL import ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pinakes.collections import pages
from pinakes.collections.detectors import Detector, Found, ask
from pinakes.collections.images import Images, open_images
from pinakes.data.base import DataInfo
from pinakes.data.images import read_image, to_tensor
from pinakes.engine.runs import write_whole
from pinakes.errors import UserError, suggest

How = Literal["link", "copy", "list"]

FILE, PAGE, KEPT, DROPPED, IMAGES = "exclude.json", "exclude.html", "kept.txt", "dropped.txt", "images"

SHOWN, CLOSEST, SIDE = 240, 48, 160
FRAME = (230, 60, 40)


@dataclass(frozen=True)
class Verdict:
    """What became of an image.

    Args:
        path: What it is called.
        kind: Its class, or an empty string.
        found: What the detector found in it, the surest first.
        dropped: Whether it is left out.
        by_hand: Whether a list decided that, and not the detector.
    """

    path: str
    kind: str
    found: tuple[Found, ...]
    dropped: bool
    by_hand: bool

    @property
    def score(self) -> float:
        """How sure the detector is that there is something, 0 to 1."""
        return self.found[0].score if self.found else 0.0


@dataclass(frozen=True)
class Exclusion:
    """What is left out of a collection, and where that was written.

    Args:
        verdicts: One for each image.
        detector: What the detector is called.
        threshold: The score from which an image is left out.
        file: The JSON.
        page: The HTML.
        folder: The folder of the images that are kept; None where they are only listed.
    """

    verdicts: tuple[Verdict, ...]
    detector: str
    threshold: float
    file: Path
    page: Path
    folder: Path | None

    @property
    def dropped(self) -> list[Verdict]:
        """What is left out, by name."""
        return [each for each in self.verdicts if each.dropped]

    def classes(self) -> list[tuple[str, int, int]]:
        """The classes with how many images they have and how many of these are left out, the most affected first."""
        every = Counter(each.kind for each in self.verdicts)
        out = Counter(each.kind for each in self.dropped)
        if len(every) < 2:
            return []
        return sorted(
            ((name, every[name], out[name]) for name in every), key=lambda each: (-each[2] / each[1], each[0])
        )

    def sentences(self) -> list[str]:
        """What was found, in words."""
        count, out = len(self.verdicts), len(self.dropped)
        said = [
            f"{out:,} of {count:,} images {'is' if out == 1 else 'are'} left out ({out / count:.1%}).",
            f"An image is left out if {self.detector} finds something with a score of {self.threshold:g} or more.",
        ]
        by_hand = Counter(each.dropped for each in self.verdicts if each.by_hand)
        if by_hand:
            are, others = "is" if by_hand[True] == 1 else "are", "other" if by_hand[False] == 1 else "others"
            said.append(
                f"By hand {by_hand[True]:,} of them {are} left out and {by_hand[False]:,} {others} kept."
            )
        return said


def check_request(
    folder: str,
    out: str | Path,
    *,
    threshold: float = 0.5,
    how: str = "link",
    lists: Iterable[Path | None] = (),
) -> None:
    """Makes sure, before the work, that a collection can be filtered so.

    Args:
        folder: The collection.
        out: The folder to write to.
        threshold: The score from which an image is left out, above 0 and at most 1.
        how: "link", "copy" or "list".
        lists: Files that name images.

    Raises:
        UserError: If not.
    """
    if not 0 < threshold <= 1:
        raise UserError(f"threshold: expected a score above 0 and at most 1, got {threshold}")
    if how not in get_args(How):
        raise UserError(f"how: '{how}' is no way to keep images{suggest(how, get_args(How))}")
    source, target = Path(folder).expanduser().resolve(), Path(out).resolve()
    if source.is_dir() and target.is_relative_to(source):
        raise UserError(
            f"{out}: lies in {folder} and would become part of it; choose another folder with --out"
        )
    kept = Path(out) / IMAGES
    if how != "list" and kept.is_dir() and any(kept.iterdir()):
        raise UserError(f"{kept}: already holds images; remove it, or choose another folder with --out")
    for each in lists:
        if each is not None and not each.is_file():
            raise UserError(f"{each}: no such file; give a list of images, a path a line")


def exclude(
    source: str | Path,
    detector: Detector,
    out: str | Path,
    *,
    name: str = "the detector",
    threshold: float = 0.5,
    how: str = "link",
    keep: Path | None = None,
    drop: Path | None = None,
    skip_bad: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    progress: bool = False,
) -> tuple[Exclusion, Images]:
    """Makes a collection of the images in which a detector finds nothing; those of the source stay as they are.

    Args:
        source: A folder of images, of any layout.
        detector: As `pinakes.collections.detectors` says.
        out: The folder for `exclude.json`, `exclude.html`, the lists `kept.txt` and `dropped.txt`, and `images`, with
            the images that are kept under the names that they have in the source.
        name: What the detector is called.
        threshold: The score from which an image is left out, above 0 and at most 1.
        how: "link" for symbolic links in `images`, "copy" for copies, "list" for the lists alone.
        keep: A file that names images to keep whatever the detector says, a path a line, as in `dropped.txt`.
        drop: Likewise, of images to leave out.
        skip_bad: Leave out files that cannot be used, and list them.
        batch_size: Images at a time.
        workers: Processes that load images; 0 loads in this one.
        progress: Whether to show a progress bar.

    Returns:
        What is left out, and the collection.

    Raises:
        UserError: If an option is out of range, the images are no files, the detector does not answer as it should, or
            a list names no image of the collection.
    """
    check_request(str(source), out, threshold=threshold, how=how, lists=(keep, drop))
    images = open_images(source, DataInfo(3, (32, 32)), skip_bad=skip_bad)
    files = [images.file(place) for place in range(len(images))]
    if None in files:
        raise UserError(f"{source}: its images are no files of their own; give a folder of images")
    by_hand = dict.fromkeys(_listed(keep, images), False)
    for path in _listed(drop, images):
        if path in by_hand:
            raise UserError(f"{path}: is to be kept and to be left out; take it from one of the lists")
        by_hand[path] = True
    loader: DataLoader[Tensor] = DataLoader(
        _Pixels([file for file in files if file is not None]),
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=list,
    )
    found: list[list[Found]] = []
    with tqdm(total=len(images), desc="images", disable=not progress, leave=False) as bar:
        for batch in loader:
            found += ask(detector, batch, name)
            bar.update(len(batch))
    verdicts = []
    for path, kind, each in zip(images.names, images.kinds, found, strict=True):
        detected = bool(each) and each[0].score >= threshold
        dropped = by_hand.get(path, detected)
        verdicts.append(Verdict(path, kind, tuple(each), dropped, dropped != detected))
    return _written(tuple(verdicts), images, Path(out), name, threshold, how), images


class _Pixels(Dataset[Tensor]):
    """Images of files, in their own sizes."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        pixels = read_image(self.files[index])
        return to_tensor(pixels, pixels.shape[:2], 3)


def _listed(file: Path | None, images: Images) -> list[str]:
    """The images that a file names."""
    if file is None:
        return []
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = set(images.names)
    for name in names:
        if name not in known:
            raise UserError(f"{file}: {images.source} has no image '{name}'; give paths as in {DROPPED}")
    return names


def _written(
    verdicts: tuple[Verdict, ...], images: Images, out: Path, detector: str, threshold: float, how: str
) -> Exclusion:
    folder = None if how == "list" else out / IMAGES
    result = Exclusion(verdicts, detector, threshold, out / FILE, out / PAGE, folder)
    for listing, dropped in ((KEPT, False), (DROPPED, True)):
        names = [each.path for each in verdicts if each.dropped == dropped]
        write_whole(out / listing, "".join(f"{name}\n" for name in names).encode())
    write_whole(result.file, json.dumps(_as_json(result, images), indent=1).encode())
    pages.write(result.page, "exclude.html.jinja", **_shown(result, images))
    if folder is not None:
        for place, verdict in enumerate(verdicts):
            file = images.file(place)
            if not verdict.dropped and file is not None:
                _placed(file, folder / verdict.path, how)
    return result


def _placed(file: Path, target: Path, how: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "link":
            target.symlink_to(file.resolve())
        else:
            shutil.copy2(file, target)
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or 0)
        raise UserError(
            f"{target}: cannot be written ({reason}); choose another folder with --out"
        ) from error


def _as_json(found: Exclusion, images: Images) -> dict[str, Any]:
    return {
        "data": images.source,
        "detector": found.detector,
        "threshold": found.threshold,
        "images": len(found.verdicts),
        "kept": len(found.verdicts) - len(found.dropped),
        "classes": {name: {"images": every, "dropped": out} for name, every, out in found.classes()},
        "dropped": [_verdict_as_json(each) for each in found.dropped],
        "found_in_kept": [
            _verdict_as_json(each) for each in found.verdicts if each.found and not each.dropped
        ],
        "skipped": [{"path": str(each.path), "reason": each.reason} for each in images.skipped],
    }


def _verdict_as_json(verdict: Verdict) -> dict[str, Any]:
    return {
        "path": verdict.path,
        "class": verdict.kind,
        "by_hand": verdict.by_hand,
        "found": [asdict(each) for each in verdict.found],
    }


def _shown(found: Exclusion, images: Images) -> dict[str, Any]:
    """What the page shows."""
    places = {name: place for place, name in enumerate(images.names)}
    out = sorted(found.dropped, key=lambda each: (each.score, each.path))
    close = sorted(
        (each for each in found.verdicts if each.found and not each.dropped),
        key=lambda each: (-each.score, each.path),
    )
    opening, *remarks = found.sentences()
    return {
        "title": images.title,
        "about": images.about,
        "opening": opening,
        "remarks": remarks,
        "classes": found.classes(),
        "sections": [
            {
                "title": title,
                "figures": [_figure(each, images, places) for each in part[:most]],
                "more": len(part[most:]),
            }
            for title, part, most in (
                ("Left out, the least certain first", out, SHOWN),
                ("Kept, the closest calls", close, CLOSEST),
            )
        ],
        "file": FILE,
        "skipped": images.skipped,
    }


def _figure(verdict: Verdict, images: Images, places: dict[str, int]) -> dict[str, Any]:
    """An image with frames around what was found."""
    place = places[verdict.path]
    file = images.file(place)
    drawn = images.thumbnail(place, SIDE)
    if file is not None:
        height, width = read_image(file).shape[:2]
        pen = ImageDraw.Draw(drawn)
        for each in verdict.found:
            if each.box is not None:
                left, top, right, bottom = each.box
                across, down = drawn.width / width, drawn.height / height
                corners = [(left * across, top * down), (max(left, right) * across, max(top, bottom) * down)]
                pen.rectangle(corners, outline=FRAME, width=2 if max(drawn.size) >= SIDE // 2 else 1)
    words = sorted({each.label for each in verdict.found if each.label})
    return {"picture": pages.picture(drawn), "verdict": verdict, "labels": ", ".join(words)}
