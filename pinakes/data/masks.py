"""Images with a mask of classes each: images/NAME.jpg with masks/NAME.png, at the top or in train, val and test."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Problem, Sample, SampleSet, TaskData
from pinakes.data.files import Entry, ImageFiles, from_entries, leave_out
from pinakes.data.images import REMEDY, BadImage, opened
from pinakes.data.layouts import KNOWN_LAYOUTS, Listing, listing
from pinakes.data.sources import Request
from pinakes.data.splits import hold_out
from pinakes.errors import UserError
from pinakes.tasks.base import Panel
from pinakes.tasks.segmentation import NO_CLASS, TASK

CLASS_NAMES = "classes.txt"
_IMAGES, _MASKS = "images", "masks"
_SPLITS = ("train", "val", "test")
_SHARE = 0.2
_VALUES = 256
_STRETCHED = {"L;2": 85, "L;4": 17}
"""By how much Pillow multiplies grey values of fewer than 8 bits."""

Folders = tuple[str, ...]
"""A folder of a listing, by the names on the way to it."""


def load(request: Request, *, ignore: int = 255) -> TaskData:
    """Loads images with masks whose pixel values are class numbers, 0 to K - 1.

    Images lie in `images/`, masks in `masks/` under the same name or `NAME_mask`, with any image ending. Both folders
    lie at the top, and a fifth is then held out for the test, or in `train`, `val` and `test`; these may also lie in
    `images/` and `masks/`. `classes.txt` at the top names the classes, one a line.

    Samples hold `image`, `semantic` (int64 (height, width), -1 where there is no class) and `path`.

    Args:
        request: What is asked for.
        ignore: The value of pixels that have no class; -1 if all have one.

    Raises:
        UserError: If an image or a mask lacks its counterpart or cannot be used, a mask holds other values than class
            numbers, or `classes.txt` does not fit the masks.
    """
    if not -1 <= ignore < _VALUES:
        raise UserError(f"the option 'ignore' must be from 0 to {_VALUES - 1}, or -1 for none, got {ignore}")
    found = listing(request.root)
    folders = _folders(found)
    splits: dict[str, list[Entry]] = {}
    problems: list[Problem] = []
    for part, (images, masks) in folders.items():
        splits[part], unpaired = _paired(found, images, masks)
        problems += unpaired
    counts, unread = _counted(found.root, (entry.mask for part in splits.values() for entry in part))
    leave_out([*problems, *unread], skip_bad=request.skip_bad)
    classes, beyond = _classes(found.root, counts, ignore, complete=not unread)
    problems += [*unread, *beyond]
    unusable = {problem.path for problem in problems}
    splits = {
        part: [entry for entry in entries if found.root / entry.mask not in unusable]
        for part, entries in splits.items()
    }
    layout = _described(splits, counts, classes, ignore)
    if "" in splits:
        splits = _held_out(splits[""], request.seed)
        layout += f", of which {_SHARE:.0%} are held out for the test (seed {request.seed})"
    else:
        layout += f", with {', '.join(splits)} folders"
        if "test" not in splits and "val" in splits:
            splits["test"] = splits.pop("val")
    data = from_entries(request, layout + _unused(found, folders), splits, classes=classes, problems=problems)
    parts: dict[str, SampleSet] = {
        name: ClassMasks(part, classes, ignore)
        for name, part in data.splits()
        if isinstance(part, ImageFiles)
    }
    return replace(data, **parts)  # type: ignore[arg-type]  # train, val and test


class ClassMasks(Dataset[Sample]):
    """Image files with a mask of classes each; both are decoded when they are asked for.

    Args:
        images: The files; each entry has a mask.
        classes: Names of the classes.
        ignore: The value of pixels that have no class; -1 if all have one.
    """

    def __init__(self, images: ImageFiles, classes: tuple[str, ...], ignore: int) -> None:
        self.images = images
        self.classes = classes
        self.ignore = ignore
        self.paths = images.paths
        self.labels = images.labels
        self.kinds = images.kinds
        self.native_sizes = images.native_sizes

    def fingerprint(self) -> str:
        """A hash of names, lengths and times of images and masks, the classes and the ignored value."""
        words = repr((self.images.fingerprint(), self.classes, self.ignore))
        return hashlib.sha256(words.encode()).hexdigest()[:16]

    def panels(self, sample: Sample) -> list[Panel]:
        """Pictures of a sample and its classes."""
        return TASK.draw_sample(sample, DataInfo(self.images.channels, self.images.size, self.classes))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        values = read_class_mask(self.images.root / self.images.entries[index].mask)
        return self.images[index] | {"semantic": class_mask_to_tensor(values, self.images.size, self.ignore)}


def read_class_mask(path: str | Path) -> np.ndarray:
    """Reads a mask of classes: the grey values, or the places in the palette, as they are stored.

    Args:
        path: An image of at most 8 bits, grey or with a palette; no JPEG.

    Returns:
        uint8 array (height, width).

    Raises:
        UserError: If it is something else or cannot be read; the message names it and says what to do.
    """
    try:
        return decode_class_mask(Path(path))
    except BadImage as error:
        raise UserError(f"{path}: {error}; {REMEDY}") from error


def decode_class_mask(path: Path) -> np.ndarray:
    """`read_class_mask`, but raises BadImage."""
    with opened(path) as image:
        if image.format in {"JPEG", "MPO"}:
            raise BadImage("is a JPEG, whose compression changes class numbers; save the mask as PNG")
        if image.mode not in {"1", "L", "P"}:
            raise BadImage(
                f"has the pixel format {image.mode}, which holds no class numbers; save the mask as 8-bit grey, or "
                "with a palette, with the number of its class in each pixel"
            )
        factor = _factor(image)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return np.array(image, dtype=np.uint8) // factor


def _factor(image: Image.Image) -> int:
    """By how much Pillow will multiply the values of an opened image when it decodes them."""
    tiles = getattr(image, "tile", ())
    stored = tiles[0].args if tiles else ""
    return _STRETCHED.get(stored[0] if isinstance(stored, tuple) else stored, 1)


def class_mask_to_tensor(values: np.ndarray, size: tuple[int, int], ignore: int = -1) -> Tensor:
    """A mask of classes as a tensor of the wanted size, by the nearest pixel.

    Args:
        values: uint8 array (height, width).
        size: Height and width to stretch to.
        ignore: The value that becomes -1.

    Returns:
        int64 (height, width).
    """
    if values.shape != size:
        values = np.array(Image.fromarray(values).resize(size[::-1], Image.Resampling.NEAREST))
    semantic = torch.from_numpy(values.astype(np.int64))
    return semantic.masked_fill(semantic == ignore, NO_CLASS)


def _folders(found: Listing) -> dict[str, tuple[Folders, Folders]]:
    """The folders of images and of masks of each part; the part is "" where there are no parts."""
    beside = [part for part in _SPLITS if found.under(part, _IMAGES) or found.under(part, _MASKS)]
    within = [part for part in _SPLITS if found.under(_IMAGES, part) or found.under(_MASKS, part)]
    flat = found.under(_IMAGES) or found.under(_MASKS)
    if beside and flat:
        raise UserError(
            f"{found.root}: images or masks lie both at the top, such as {flat[0]}, and in {', '.join(beside)}; "
            "move all into the parts, or all out of them"
        )
    if not beside and not flat:
        raise UserError(
            f"{found.root}: no {_IMAGES}/ and no {_MASKS}/, but {', '.join(found.tops) or 'images without folders'}; "
            f"{KNOWN_LAYOUTS}"
        )
    known = {*_SPLITS, _IMAGES, _MASKS}
    for top in found.tops:
        if top not in known and found.under(top, _IMAGES) and found.under(top, _MASKS):
            raise UserError(f"{found.root / top}: is none of {', '.join(_SPLITS)}; rename it to one of them")
    parts = beside or (within if "train" in within else [])
    if not parts:
        return {"": ((_IMAGES,), (_MASKS,))}
    if "train" not in parts:
        raise UserError(f"{found.root}: nothing to train on, only {', '.join(parts)}; add train/{_IMAGES}")
    if beside:
        return {part: ((part, _IMAGES), (part, _MASKS)) for part in parts}
    return {part: ((_IMAGES, part), (_MASKS, part)) for part in parts}


def _paired(found: Listing, images: Folders, masks: Folders) -> tuple[list[Entry], list[Problem]]:
    """The images with their masks, and what lacks its counterpart or has several."""
    candidates: dict[str, list[str]] = defaultdict(list)
    for name in found.under(*masks):
        candidates[_key(name, masks)].append(name)
    sharing = Counter(_key(name, images) for name in found.under(*images))
    entries, problems, used = [], [], set()
    for name in found.under(*images):
        key = _key(name, images)
        own = candidates.get(key, []) + candidates.get(f"{key}_mask", [])
        used.update(own)
        if not own:
            reason = f"has no mask; add {'/'.join(masks)}/{key}.png"
        elif len(own) > 1:
            reason = f"has several masks ({', '.join(own)}); keep one of them"
        elif sharing[key] > 1:
            reason = f"shares its mask {own[0]} with another image of that name; rename one, and its mask"
        else:
            entries.append(Entry(name, mask=own[0]))
            continue
        problems.append(Problem(found.root / name, reason))
    problems += [
        Problem(found.root / name, f"the mask has no image of that name in {'/'.join(images)}/")
        for name in found.under(*masks)
        if name not in used
    ]
    return entries, problems


def _key(name: str, folders: Folders) -> str:
    """The place of a file in its folder, without its ending."""
    return PurePosixPath(*PurePosixPath(name).parts[len(folders) :]).with_suffix("").as_posix()


def _counted(root: Path, masks: Iterable[str]) -> tuple[dict[str, np.ndarray], list[Problem]]:
    """How many pixels of each mask have which value, int64 (256,), and the masks that cannot be used."""

    def look(name: str) -> np.ndarray | BadImage:
        try:
            return np.bincount(decode_class_mask(root / name).ravel(), minlength=_VALUES)
        except BadImage as error:
            return error

    names = list(masks)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        looks = dict(zip(names, pool.map(look, names), strict=True))
    counts = {name: found for name, found in looks.items() if not isinstance(found, BadImage)}
    return counts, [
        Problem(root / name, str(found)) for name, found in looks.items() if isinstance(found, BadImage)
    ]


def _classes(
    root: Path, counts: Mapping[str, np.ndarray], ignore: int, *, complete: bool
) -> tuple[tuple[str, ...], list[Problem]]:
    """The names of the classes, and the masks with values beyond them.

    Args:
        root: The folder, for `classes.txt`.
        counts: Pixels by value of each mask.
        ignore: The value that is no class.
        complete: Whether these are all masks that there are.
    """
    if not counts:
        return (), []
    highest = {name: _highest(count, ignore) for name, count in counts.items()}
    first, top = max(highest.items(), key=lambda item: item[1])
    present = np.sum(list(counts.values()), axis=0) > 0
    hint = (
        f"; {ignore} is taken for no class (?ignore={ignore}), so a class with that value needs another number"
        if ignore >= 0 and present[ignore]
        else ""
    )
    if top < 0:
        raise UserError(f"{root / first}: has no class at any pixel, as no mask has{hint}")
    names = _names(root / CLASS_NAMES)
    if names is None:
        gaps = [value for value in range(top) if not present[value] and value != ignore]
        if complete and gaps:
            raise UserError(
                f"{root / first}: has the value {top}, but no mask has {gaps[0]}; number the classes from 0 without a "
                f"gap, or name every number from 0 to {top} in {CLASS_NAMES}, one a line"
            )
        names = tuple(f"class {number}" for number in range(top + 1))
    elif complete and top < len(names) - 1:
        raise UserError(
            f"{root / CLASS_NAMES}: line {top + 2} names '{names[top + 1]}', but no mask has the value {top + 1}; "
            f"remove the line, or correct the masks{hint}"
        )
    if len(names) < 2:
        raise UserError(f"{root / first}: has no class but 0, as no mask has; at least two are needed{hint}")
    reason = (
        "has the value {}, but "
        + f"{CLASS_NAMES} names only 0 to {len(names) - 1}; add a line, or correct the mask"
    )
    return names, [
        Problem(root / name, reason.format(value)) for name, value in highest.items() if value >= len(names)
    ]


def _highest(count: np.ndarray, ignore: int) -> int:
    """The highest class number of a mask, -1 if it has none."""
    return max((int(value) for value in np.flatnonzero(count) if value != ignore), default=-1)


def _names(path: Path) -> tuple[str, ...] | None:
    """The lines of a file of class names, or None where there is none."""
    if not path.exists():
        return None
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as text in UTF-8") from error
    for line, name in enumerate(names, start=1):
        if not name:
            raise UserError(
                f"{path}: line {line} is empty; give one name a line, in the order of the numbers"
            )
        if name in names[: line - 1]:
            raise UserError(f"{path}: line {line} names '{name}' again; give every class a name of its own")
    return tuple(names)


def _described(
    splits: Mapping[str, Sequence[Entry]],
    counts: Mapping[str, np.ndarray],
    classes: Sequence[str],
    ignore: int,
) -> str:
    """What the masks hold, in words."""
    masks = [entry.mask for entries in splits.values() for entry in entries]
    total = sum((counts[mask] for mask in masks), start=np.zeros(_VALUES, dtype=np.int64))
    pixels = max(1, total.sum())
    left = int(total[ignore]) if ignore >= 0 else 0
    if ignore >= 0:
        total[ignore] = 0
    shares = [
        f"{name} {100 * total[number] / pixels:.3g}%"
        for number, name in enumerate(classes[:10])
        if number != ignore
    ]
    more = ", ..." if len(classes) > 10 else ""
    words = f"images with masks of {len(classes)} classes ({', '.join(shares)}{more} of the pixels"
    words += f"; {100 * left / pixels:.3g}% have no class)" if left else ")"
    empty = [mask for mask in masks if _highest(counts[mask], ignore) < 0]
    if empty:
        words += f"; {len(empty)} masks have no class at any pixel ({', '.join(empty[:3])}{', ...' * (len(empty) > 3)})"
    return words


def _held_out(entries: Sequence[Entry], seed: int) -> dict[str, list[Entry]]:
    test = hold_out([entry.name for entry in entries], [""] * len(entries), _SHARE, seed)
    return {
        "train": [entry for i, entry in enumerate(entries) if i not in test],
        "test": [entry for i, entry in enumerate(entries) if i in test],
    }


def _unused(found: Listing, folders: Mapping[str, tuple[Folders, Folders]]) -> str:
    """Words for the images that lie elsewhere, if there are any."""
    read = {name for pair in folders.values() for folder in pair for name in found.under(*folder)}
    others = [name for name in found.images if name not in read]
    return f"; {len(others)} images elsewhere are not used ({others[0]})" if others else ""
