"""What lies in a folder, and which of the known layouts it is."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pinakes.errors import UserError

IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("avif", "bmp", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm"),
        *("tga", "tif", "tiff", "webp"),
    )
)
"""Endings of the files that count as images in a folder."""

TABLE = "table.csv"
"""Name of the file with a row for each image of a folder."""

KNOWN_LAYOUTS = (
    "known layouts: MVTec AD (train/good, test/KIND, ground_truth/KIND), a folder per class (CLASS/x.png, or "
    "train/CLASS/x.png with test/CLASS/x.png), a flat folder of images, COCO (a .json of annotations), "
    "images with a mask of classes each (images/x.jpg with masks/x.png, or both in train and test); the classes or the "
    "flat folder may have a table beside them (table.csv)"
)


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Args:
        root: The folder.
        images: Images, as sorted paths relative to the folder with forward slashes.
        others: How many other files there are, by ending.
    """

    root: Path
    images: tuple[str, ...]
    others: Counter[str]

    def under(self, *folders: str) -> list[str]:
        """The images below a folder of the listing."""
        start = "/".join(folders) + "/"
        return [name for name in self.images if name.startswith(start)]

    @property
    def tops(self) -> list[str]:
        """The folders directly under the root that hold images, sorted."""
        return sorted({name.partition("/")[0] for name in self.images if "/" in name})


def listing(root: Path) -> Listing:
    """Lists a folder with everything below it; hidden files and folders are passed over.

    Raises:
        UserError: If there is no such folder or it holds no image; says what it holds instead.
    """
    if not root.exists():
        raise UserError(f"{root}: no such file or folder; check the path")
    if not root.is_dir():
        raise UserError(f"{root}: is a file; give the folder that holds it")
    images: list[str] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=_cannot_list):
        real = os.path.realpath(folder)
        inner[:] = [] if real in seen else [name for name in inner if not name.startswith((".", "__MACOSX"))]
        if real in seen:
            continue
        seen.add(real)
        below = Path(folder).relative_to(root).as_posix()
        start = "" if below == "." else f"{below}/"
        for name in files:
            _, dot, ending = name.rpartition(".")
            if name.startswith("."):
                continue
            if f".{ending.lower()}" in IMAGE_SUFFIXES:
                images.append(start + name)
            else:
                others[f"{dot}{ending.lower()}"] += 1
    if not images:
        held = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        found = f"no image, only other files: {held}" if others else "nothing in it"
        raise UserError(
            f"{root}: there is {found}; give a folder with images ({' '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return Listing(root, tuple(sorted(images)), others)


def _cannot_list(error: OSError) -> None:
    raise UserError(
        f"{error.filename}: cannot be listed ({error.strerror}); check its permissions"
    ) from error


def recognise(root: Path) -> tuple[str, Path]:
    """The name of the source that reads the layout of a file or folder, and where the layout begins.

    A folder that holds nothing but one folder with a `train` in it, as archives are often unpacked, stands for that.

    Args:
        root: An existing path.

    Raises:
        UserError: If it is no known layout; says what was found and which layouts there are.
    """
    if root.is_file():
        if root.suffix.lower() == ".json":
            return "coco", root
        raise UserError(f"{root}: is a single file; give the folder that holds it ({KNOWN_LAYOUTS})")
    if annotation_files(root):
        return "coco", root
    found = listing(root)
    if len(found.tops) == 1 and found.under(found.tops[0], "train"):
        return recognise(root / found.tops[0])
    if found.under("train", "good") or {"test", "ground_truth"} <= set(found.tops):
        return "mvtec", root
    if is_masked(found):
        return "masks", root
    categories = sorted({name.split("/")[0] for name in found.images if "/train/good/" in name})
    if categories:
        raise UserError(
            f"{root}: holds several MVTec sets ({', '.join(categories)}); give one of them, "
            f"such as mvtec:{root / categories[0]}"
        )
    return ("table" if (root / TABLE).is_file() else "folder"), root


def is_masked(found: Listing) -> bool:
    """Whether a folder holds images with a mask of classes for each, at its top or in `train`."""
    return any(found.under(*above, "images") and found.under(*above, "masks") for above in ((), ("train",)))


def annotation_files(root: Path) -> list[Path]:
    """The COCO annotation files of a folder: at its top, in `annotations/`, or in its split folders."""
    patterns = ("*.json", "annotations/*.json", "*/_annotations.coco.json")
    files = sorted({path for pattern in patterns for path in root.glob(pattern)})
    return [path for path in files if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    text = path.read_bytes()
    return all(key in text for key in (b'"images"', b'"annotations"', b'"categories"'))
