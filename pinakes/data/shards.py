"""Shards in the layout of WebDataset: tar files in which the files of one sample share a name up to its first dot.

For collections too large for a folder of files. A sample is an image (`000017.jpg`) and, where its class is known, a
number from 0 in `000017.cls`. A file `classes.txt` beside the shards may name the classes, one in a line. The headers
of all members are read once, so that samples can be had in any order and a fit can be resumed; images stay in the
shards until they are asked for, so that a damaged one is found, and named, no earlier than that; with `--skip-bad` all
are decoded once beforehand, and those that cannot be are left out.
"""

import hashlib
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Problem, Sample, TaskData
from pinakes.data.images import REMEDY, BadImage, decode, to_tensor
from pinakes.data.sources import Request
from pinakes.data.splits import hold_out
from pinakes.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
LABEL = "cls"
NAMES = "classes.txt"
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SHARE = 0.2
SMALL_SIDE = 256
"""Images are left in their own size where the first has sides of at most so many pixels."""
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True, slots=True)
class Member:
    """An image in a shard.

    Args:
        shard: The shard's file.
        key: Its name there, without the ending.
        start: Where its bytes begin.
        length: How many there are.
        label: Its class, -1 where it has none.
    """

    shard: Path
    key: str
    start: int
    length: int
    label: int = -1

    @property
    def path(self) -> str:
        """How it is called in messages and results."""
        return f"{self.shard.name}/{self.key}"

    def read(self) -> bytes:
        """Its bytes."""
        with self.shard.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)


class ShardedImages(Dataset[Sample]):
    """Images in shards; each is read when it is asked for.

    Args:
        members: The images.
        size: Height and width in pixels to which they are stretched.
        channels: 3 or 1.
        classes: Names of the classes.
    """

    def __init__(
        self, members: Sequence[Member], size: tuple[int, int], channels: int, classes: Sequence[str]
    ) -> None:
        self.members = tuple(members)
        self.size, self.channels, self.classes = size, channels, tuple(classes)

    @property
    def paths(self) -> tuple[str, ...]:
        """The images: the name of the shard, and theirs in it."""
        return tuple(each.path for each in self.members)

    @property
    def labels(self) -> tuple[int | None, ...]:
        """The label of each image, None where there is none."""
        return tuple(each.label if each.label >= 0 else None for each in self.members)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The name of each image's class."""
        return tuple(self.classes[each.label] if each.label >= 0 else "" for each in self.members)

    def fingerprint(self) -> str:
        """A hash of what lies where in the shards."""
        digest = hashlib.sha256(repr((self.size, self.channels)).encode())
        for each in self.members:
            digest.update(repr((each.path, each.start, each.length, each.label)).encode())
        return digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Sample:
        member = self.members[index]
        try:
            pixels = decode(member.read())
        except BadImage as error:
            raise UserError(f"{member.shard}: its image {member.key} {error}; {REMEDY}") from error
        sample: Sample = {"image": to_tensor(pixels, self.size, self.channels), "path": member.path}
        if self.classes:
            known = member.label >= 0
            sample |= {
                "label": torch.tensor(member.label),
                "kind": self.classes[member.label] if known else "",
            }
        return sample


def load(request: Request) -> TaskData:
    """Loads images from shards.

    Args:
        request: Its path is a folder of tar files, or a pattern such as `shards/train-{000..099}.tar` or
            `shards/*.tar`. Shards whose name begins with train, val or test, or whose folder is called so, are those
            parts; without parts to test on a fifth of every class is held out.

    Raises:
        UserError: If there are no shards, one is damaged or holds no image, or a class is not a number.
    """
    shards = _shards(request)
    parts: dict[str, list[Member]] = {}
    for shard in shards:
        parts.setdefault(_part(shard), []).extend(members_of(shard))
    skipped: list[Problem] = []
    if request.skip_bad:
        parts = {part: _usable(members, skipped) for part, members in parts.items()}
    if not parts.get("train"):
        raise UserError(f"{request.root}: has no shards to train on, only {', '.join(parts)}")
    everything = [member for members in parts.values() for member in members]
    classes = _classes(shards[0].parent, everything)
    if "val" in parts and "test" not in parts:
        parts["test"] = parts.pop("val")
    how = f"with {', '.join(parts)}"
    if list(parts) == ["train"]:
        train = parts["train"]
        held = hold_out(
            [each.path for each in train], [str(each.label) for each in train], SHARE, request.seed
        )
        parts = {
            "train": [each for place, each in enumerate(train) if place not in held],
            "test": [each for place, each in enumerate(train) if place in held],
        }
        how = f"of which {SHARE:.0%} are held out for the test (seed {request.seed})"
    size = request.size or _size(parts["train"][0])
    made = {part: ShardedImages(members, size, request.channels, classes) for part, members in parts.items()}
    named = f", {len(classes)} classes" if classes else ""
    return TaskData(
        spec=request.spec,
        layout=f"{len(shards)} shards of {len(everything)} images{named}, {how}",
        train=made["train"],
        val=made.get("val"),
        test=made.get("test"),
        info=DataInfo(request.channels, size, classes),
        skipped=tuple(skipped),
    )


def members_of(shard: Path) -> list[Member]:
    """The images of a shard, in the order in which they lie there.

    Raises:
        UserError: If it is no tar file, is cut short, or holds no image, or a class is not a number.
    """
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    length = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                folder, slash, name = entry.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key, ending = folder + slash + stem, ending.lower()
                if entry.offset_data + entry.size > length:
                    raise tarfile.ReadError("unexpected end of data")
                if ending in IMAGES:
                    images[key] = Member(shard, key, entry.offset_data, entry.size)
                elif ending == LABEL:
                    stored = archive.extractfile(entry)
                    assert stored is not None
                    word = stored.read().decode(errors="replace").strip()
                    if not word.isdecimal():
                        raise UserError(
                            f"{shard}: {entry.name} must hold the number of a class from 0, got '{word[:40]}'"
                        )
                    labels[key] = int(word)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{shard}: is no whole tar file without compression ({error}); make it again"
        ) from error
    if not images:
        raise UserError(f"{shard}: holds no image; expected names such as 000017.jpg and 000017.cls")
    return [replace(member, label=labels.get(key, -1)) for key, member in images.items()]


def _usable(members: Sequence[Member], skipped: list[Problem]) -> list[Member]:
    """The images that can be decoded; the others are put on the list."""
    good = []
    for member in members:
        try:
            decode(member.read())
        except BadImage as error:
            skipped.append(Problem(member.shard / member.key, str(error)))
        else:
            good.append(member)
    return good


def _shards(request: Request) -> list[Path]:
    root = request.root
    if root.is_dir():
        found = sorted(root.rglob("*.tar"))
    else:
        names = _expanded(str(root))
        found = []
        for name in names:
            path = Path(name)
            found += sorted(path.parent.glob(path.name)) if "*" in path.name or "?" in path.name else [path]
    missing = [path for path in found if not path.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such file; check the path and the range of shards")
    if not found:
        raise UserError(f"{root}: has no shards; give a folder of tar files or a pattern of their names")
    return found


def _expanded(pattern: str) -> list[str]:
    """The names that a pattern with ranges such as {000..099} stands for."""
    pieces = _RANGE.split(pattern)
    fixed, ranges = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    numbers = [
        [f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)] for low, high in ranges
    ]
    return [
        fixed[0] + "".join(number + rest for number, rest in zip(chosen, fixed[1:], strict=True))
        for chosen in product(*numbers)
    ]


def _part(shard: Path) -> str:
    """The part that a shard belongs to by the first word of its name, or the name of its folder."""
    first = re.split(r"[^a-z]", shard.name.lower())[0]
    return PARTS.get(first) or PARTS.get(shard.parent.name.lower()) or "train"


def _classes(folder: Path, members: Sequence[Member]) -> tuple[str, ...]:
    """Names of the classes: those of the file beside the shards, or their numbers."""
    count = max(each.label for each in members) + 1
    file = next((each for each in (folder / NAMES, folder.parent / NAMES) if each.is_file()), None)
    if file is None:
        return tuple(str(number) for number in range(count))
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(names) < count:
        raise UserError(
            f"{file}: names {len(names)} classes, but the shards have class {count - 1}; add names"
        )
    return names


def _size(member: Member) -> tuple[int, int]:
    """The size of an image if it is small, else 256 x 256."""
    try:
        height, width = decode(member.read()).shape[:2]
    except BadImage as error:
        raise UserError(f"{member.shard}: its image {member.key} {error}") from error
    return (height, width) if max(height, width) <= SMALL_SIDE else (SMALL_SIDE, SMALL_SIDE)
