"""The layout of MVTec AD: train/good, test/KIND and, for masks, ground_truth/KIND."""

from pathlib import Path, PurePosixPath

from pinakes.data.base import Problem, TaskData
from pinakes.data.files import Entry, from_entries
from pinakes.data.layouts import KNOWN_LAYOUTS, Listing, listing
from pinakes.data.sources import Request
from pinakes.errors import UserError

CLASSES = ("normal", "anomalous")


def load(request: Request) -> TaskData:
    """Loads a folder in the layout of MVTec AD.

    Training images lie in `train/good`, test images in `test/good` and `test/KIND`, masks in
    `ground_truth/KIND/NAME_mask.png` or `NAME.png`, with any image ending.

    Raises:
        UserError: If the layout is another, a mask has no image, some anomalous images lack a mask, or a file
            cannot be used.
    """
    found = listing(request.root)
    _check_folders(found)
    train = [Entry(name, 0, "good") for name in found.under("train", "good")]
    masks = {_key(name): name for name in found.under("ground_truth")}
    test, problems = [], []
    used = set()
    for name in found.under("test"):
        kind = name.split("/")[1]
        mask = _mask_of(name, masks)
        used.add(mask)
        test.append(Entry(name, int(kind != "good"), kind, mask if kind != "good" else ""))
    if masks:
        bare = [entry for entry in test if entry.label and not entry.mask]
        problems += [_without_mask(found.root, entry.name) for entry in bare]
        test = [entry for entry in test if entry not in bare]
        problems += [
            Problem(found.root / mask, "the mask has no image of that name in test/")
            for mask in masks.values()
            if mask not in used
        ]
    kinds = sorted({entry.kind for entry in test if entry.label})
    layout = f"MVTec AD layout, {'with' if masks else 'without'} masks"
    layout += f", kinds of defect: {', '.join(kinds)}" if kinds else ", no anomalous test images"
    return from_entries(
        request, layout, {"train": train, "test": test}, classes=CLASSES, masks=bool(masks), problems=problems
    )


def _check_folders(found: Listing) -> None:
    root = found.root
    if not found.under("train", "good"):
        raise UserError(
            f"{root}: no image in train/good, but in {', '.join(found.tops) or 'the folder itself'}; {KNOWN_LAYOUTS}"
        )
    others = sorted({name.split("/")[1] for name in found.under("train")} - {"good"})
    if others:
        raise UserError(
            f"{root / 'train' / others[0]}: training images must be good ones; move it to test/{others[0]}"
        )
    loose = [name for name in found.under("test") if name.count("/") == 1]
    if loose:
        raise UserError(
            f"{root / loose[0]}: lies directly in test/; move it to test/good or test/KIND-OF-DEFECT"
        )


def _key(name: str) -> tuple[str, str]:
    path = PurePosixPath(*PurePosixPath(name).parts[1:])
    return path.parent.as_posix(), path.stem


def _mask_of(name: str, masks: dict[tuple[str, str], str]) -> str:
    folder, stem = _key(name)
    return masks.get((folder, f"{stem}_mask")) or masks.get((folder, stem), "")


def _without_mask(root: Path, name: str) -> Problem:
    folder, stem = _key(name)
    return Problem(root / name, f"has no mask; add ground_truth/{folder}/{stem}_mask.png")
