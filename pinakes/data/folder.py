"""Folders of images: a folder per class, with or without train, val and test, and flat folders."""

from pinakes.data.base import TaskData
from pinakes.data.files import Entry, from_entries
from pinakes.data.layouts import KNOWN_LAYOUTS, Listing, listing
from pinakes.data.mvtec import CLASSES as NORMAL_OR_NOT
from pinakes.data.sources import Request
from pinakes.data.splits import hold_out
from pinakes.errors import UserError, suggest

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SHARE = 0.2


def load(request: Request, *, normal: str = "") -> TaskData:
    """Loads images from a folder per class, or from a flat folder without labels.

    Without folders for the splits, a fifth of every class is held out for the test.

    Args:
        request: What is asked for.
        normal: The class of normal images, for anomaly detection: train on images of that class only, test on
            the rest, label 0 normal and 1 anomalous, `kind` the class.

    Raises:
        UserError: If images lie beside class folders, a class is tested but not trained on, there is no such
            normal class, or a file cannot be used.
    """
    found = listing(request.root)
    loose = [name for name in found.images if "/" not in name]
    if loose and found.tops:
        raise UserError(
            f"{found.root}: images such as {loose[0]} lie beside folders of images ({', '.join(found.tops)}), so "
            f"their class is unknown; move them into a class folder; {KNOWN_LAYOUTS}"
        )
    splits, flat = _split_folders(found)
    if loose or flat:
        return _unlabelled(request, found, splits)
    if splits:
        parts = {part: _by_class(names, depth=1) for part, names in splits.items()}
        how = f"with {', '.join(parts)} folders"
    else:
        parts = _held_out(_by_class(found.images, depth=0), request.seed)
        how = f"of which {_SHARE:.0%} are held out for the test (seed {request.seed})"
    kinds = sorted({kind for kind, _ in parts["train"]})
    if normal:
        return _one_normal(request, parts, normal, how, move_unseen=not splits)
    strange = sorted({kind for part in parts.values() for kind, _ in part} - set(kinds))
    if strange:
        raise UserError(
            f"{found.root}: the class '{strange[0]}' has no training images, only {', '.join(kinds)}; add "
            f"train/{strange[0]}, or for anomaly detection append ?normal={kinds[0]}"
        )
    labels = {kind: label for label, kind in enumerate(kinds)}
    entries = {
        part: [Entry(name, labels[kind], kind) for kind, name in images] for part, images in parts.items()
    }
    layout = f"a folder per class ({len(kinds)}: {_some(kinds)}), {how}"
    return from_entries(request, layout, entries, classes=tuple(kinds))


def _some(kinds: list[str]) -> str:
    return ", ".join(kinds[:10]) + (", ..." if len(kinds) > 10 else "")


def _split_folders(found: Listing) -> tuple[dict[str, list[str]], bool]:
    """The images of each split if the top folders are splits, and whether they lie in them without classes.

    A folder called "train" may also be a class among others: trains are photographed too.
    """
    train = next((top for top in found.tops if _SPLITS.get(top.lower()) == "train"), None)
    if train is None:
        return {}, False
    depths = {min(name.count("/"), 2) for name in found.under(train)}
    if depths == {1} and not all(top.lower() in _SPLITS for top in found.tops):
        return {}, False
    if depths == {1, 2}:
        raise UserError(
            f"{found.root / train}: images lie beside class folders; move them into a class folder"
        )
    splits: dict[str, list[str]] = {}
    for top in found.tops:
        if part := _SPLITS.get(top.lower()):
            splits.setdefault(part, []).extend(found.under(top))
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
    return {part: splits[part] for part in ("train", "val", "test") if part in splits}, depths == {1}


def _by_class(names: list[str] | tuple[str, ...], depth: int) -> list[tuple[str, str]]:
    return [(name.split("/")[depth], name) for name in names]


def _held_out(images: list[tuple[str, str]], seed: int) -> dict[str, list[tuple[str, str]]]:
    kinds, names = zip(*images, strict=True)
    test = hold_out(names, kinds, _SHARE, seed)
    return {
        "train": [image for i, image in enumerate(images) if i not in test],
        "test": [image for i, image in enumerate(images) if i in test],
    }


def _unlabelled(request: Request, found: Listing, splits: dict[str, list[str]]) -> TaskData:
    splits = splits or {"train": list(found.images)}
    layout = f"a flat folder of images without labels ({', '.join(splits)})"
    return from_entries(request, layout, {part: [Entry(n) for n in names] for part, names in splits.items()})


def _one_normal(
    request: Request, parts: dict[str, list[tuple[str, str]]], normal: str, how: str, *, move_unseen: bool
) -> TaskData:
    """One class is normal; without split folders, the training images of the others are tested on as well."""
    kinds = sorted({kind for part in parts.values() for kind, _ in part})
    if normal not in {kind for kind, _ in parts["train"]}:
        raise UserError(f"{request.path}: no training images of class '{normal}'{suggest(normal, kinds)}")

    def judged(part: str) -> list[Entry]:
        return [Entry(name, int(kind != normal), kind) for kind, name in parts.get(part, [])]

    others = _some([kind for kind in kinds if kind != normal])
    layout = f"a folder per class, {how}; '{normal}' is normal, anomalous are {others}"
    entries = {part: judged(part) for part in ("train", "val", "test")}
    entries["train"], unseen = (
        [entry for entry in entries["train"] if entry.label == wanted] for wanted in (0, 1)
    )
    if move_unseen:
        entries["test"] = sorted(entries["test"] + unseen, key=lambda entry: entry.name)
    entries["val"] = [entry for entry in entries["val"] if entry.label == 0]
    return from_entries(request, layout, entries, classes=NORMAL_OR_NOT)
