"""Data sets of image files: read when asked for, checked before."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from pinakes.data.base import DataInfo, Problem, Sample, TaskData
from pinakes.data.images import REMEDY, mask_to_tensor, read_image, read_mask, to_tensor
from pinakes.data.inspection import Facts, inspect_files
from pinakes.data.sources import Request
from pinakes.errors import UserError


@dataclass(frozen=True, slots=True)
class Entry:
    """One image file and what is known of it.

    Args:
        name: Its path relative to the root of the set.
        label: Its class, or None where there are no labels.
        kind: Kind of defect or name of the class.
        mask: Path of its mask relative to the root, or an empty string.
    """

    name: str
    label: int | None = None
    kind: str = ""
    mask: str = ""


class ImageFiles(Dataset[Sample]):
    """Image files with labels and masks; each is decoded when it is asked for.

    Args:
        root: The folder to which all names are relative.
        entries: The images.
        size: Height and width in pixels to which images and masks are stretched.
        channels: 3 or 1.
        facts: What the inspection found, for the fingerprint and the native sizes.
        masks: Whether samples have a mask; without a file it is all False.
    """

    def __init__(
        self,
        root: Path,
        entries: Sequence[Entry],
        *,
        size: tuple[int, int],
        channels: int,
        facts: Mapping[str, Facts],
        masks: bool = False,
    ) -> None:
        self.root = root
        self.entries = tuple(entries)
        self.size = size
        self.channels = channels
        self.masks = masks
        self.native_sizes = dict(Counter(facts[entry.name].size for entry in entries))
        self._fingerprint = _fingerprint(self.entries, facts, size, channels)

    @property
    def paths(self) -> tuple[str, ...]:
        """The images, relative to the root."""
        return tuple(entry.name for entry in self.entries)

    @property
    def labels(self) -> tuple[int | None, ...]:
        """The label of each image, None where there are no labels."""
        return tuple(entry.label for entry in self.entries)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of defect or class of each image."""
        return tuple(entry.kind for entry in self.entries)

    def fingerprint(self) -> str:
        """A hash of names, lengths, times, labels and masks, as they were when the files were inspected."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        pixels = read_image(self.root / entry.name)
        sample: Sample = {"image": to_tensor(pixels, self.size, self.channels), "path": entry.name}
        if entry.label is not None:
            sample |= {"label": torch.tensor(entry.label), "kind": entry.kind}
        if self.masks:
            sample["mask"] = (
                mask_to_tensor(read_mask(self.root / entry.mask), self.size)
                if entry.mask
                else torch.zeros(self.size, dtype=torch.bool)
            )
        return sample


def _fingerprint(
    entries: Iterable[Entry], facts: Mapping[str, Facts], size: tuple[int, int], channels: int
) -> str:
    digest = hashlib.sha256(repr((size, channels)).encode())
    for entry in entries:
        files = [facts[name] for name in (entry.name, entry.mask) if name]
        parts = (entry.name, entry.label, entry.kind, entry.mask, *((f.bytes, f.modified) for f in files))
        digest.update(repr(parts).encode())
    return digest.hexdigest()[:16]


def from_entries(
    request: Request,
    layout: str,
    splits: Mapping[str, Sequence[Entry]],
    *,
    classes: tuple[str, ...] = (),
    masks: bool = False,
    problems: Iterable[Problem] = (),
) -> TaskData:
    """Checks the files of a set and makes its `TaskData`.

    Args:
        request: What was asked for.
        layout: What was recognised.
        splits: The images of "train" and, where there are such, "val" and "test".
        classes: Names of the classes.
        masks: Whether the set has masks.
        problems: Files that the layout itself has shown to be unusable.

    Raises:
        UserError: If a file cannot be used and bad files are not to be skipped, or nothing is left to train on.
    """
    root = request.root
    everything = [entry for entries in splits.values() for entry in entries]
    facts = inspect_files(root, (name for entry in everything for name in (entry.name, entry.mask) if name))
    bad = {entry.name: found for entry in everything if (found := _problem(root, entry, facts))}
    skipped = leave_out([*problems, *bad.values()], skip_bad=request.skip_bad)
    kept = {name: [entry for entry in entries if entry.name not in bad] for name, entries in splits.items()}
    if not kept["train"]:
        raise UserError(f"{root}: no usable image is left to train on{_listed(skipped)}")
    blank = [
        entry.mask for entries in kept.values() for entry in entries if entry.mask and facts[entry.mask].blank
    ]
    if blank:
        layout += (
            f"; {len(blank)} masks mark no pixel ({', '.join(blank[:3])}{', ...' if len(blank) > 3 else ''})"
        )
    size = request.size or native_size(facts[entry.name] for entries in kept.values() for entry in entries)
    sets = {
        name: ImageFiles(root, entries, size=size, channels=request.channels, facts=facts, masks=masks)
        for name, entries in kept.items()
        if entries
    }
    return TaskData(
        spec=request.spec,
        layout=layout,
        train=sets["train"],
        val=sets.get("val"),
        test=sets.get("test"),
        info=DataInfo(request.channels, size, classes),
        skipped=skipped,
    )


def native_size(facts: Iterable[Facts]) -> tuple[int, int]:
    """The size that all images share if that is at most 256 pixels a side, else 256 x 256."""
    sizes = {fact.size for fact in facts}
    shared = next(iter(sizes))
    return shared if len(sizes) == 1 and max(shared) <= 256 else (256, 256)


def _problem(root: Path, entry: Entry, facts: Mapping[str, Facts]) -> Problem | None:
    image = facts[entry.name]
    if image.problem:
        return Problem(root / entry.name, image.problem)
    if not entry.mask:
        return None
    mask = facts[entry.mask]
    if mask.problem:
        return Problem(root / entry.mask, mask.problem)
    if mask.size != image.size:
        turned = " once turned as its EXIF tag says" if mask.size == image.size[::-1] else ""
        return Problem(
            root / entry.mask,
            f"the mask is {mask.height} x {mask.width} pixels (height x width), but its image {entry.name} is "
            f"{image.height} x {image.width}{turned}; draw the mask on the image as it is shown",
        )
    return None


def leave_out(problems: Sequence[Problem], *, skip_bad: bool) -> tuple[Problem, ...]:
    """The problems to list as skipped.

    Raises:
        UserError: If there are any and they are not to be skipped; names the first ones.
    """
    if problems and not skip_bad:
        first = problems[0]
        raise UserError(f"{first.path}: {first.reason}; {REMEDY}{_listed(problems[1:])}")
    return tuple(problems)


def _listed(problems: Sequence[Problem]) -> str:
    if not problems:
        return ""
    names = ", ".join(str(problem.path) for problem in problems[:4])
    more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
    return f" (files with problems besides: {names}{more})"
