"""Boxes, and outlines where there are any, from COCO annotation files."""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pinakes.data.base import DataInfo, Problem, TaskData
from pinakes.data.boxes import BoxedImage, BoxedImages, Thing
from pinakes.data.files import leave_out, native_size
from pinakes.data.images import BadImage
from pinakes.data.inspection import Facts, inspect_files
from pinakes.data.layouts import KNOWN_LAYOUTS, annotation_files
from pinakes.data.sources import Request
from pinakes.data.splits import hold_out
from pinakes.errors import UserError

_SHARE = 0.2
_SPLIT = re.compile(r"(?<![a-z])(train|val|test)")

Document = Mapping[str, Any]


def load(request: Request, *, images: str = "", masks: bool = False) -> TaskData:
    """Loads COCO annotations: one file, a folder with `annotations/`, or split folders with their own file.

    Of several files, each is a split, named by its file or folder: train, val or test. Of a single one, a fifth of
    the images is held out for the test. Regions that stand for a crowd are left out.

    Args:
        request: What is asked for.
        images: The folder of the images, where it is not found by itself.
        masks: Whether samples also have a mask of every thing, drawn from its outline.

    Raises:
        UserError: If an annotation is malformed, has an unknown category or lies outside its image, or an image is
            missing or cannot be used.
    """
    files = _files(request.root)
    documents = {split: _read(path) for split, path in files.items()}
    labels, classes = _categories(files, documents)
    base = request.root if request.root.is_dir() else request.root.parent
    splits: dict[str, list[BoxedImage]] = {}
    problems: list[Problem] = []
    facts: dict[str, Facts] = {}
    for split, path in files.items():
        document = documents[split]
        folder = _image_folder(path, document, base, images)
        names = {
            image["id"]: os.path.relpath(folder / image["file_name"], base) for image in document["images"]
        }
        facts |= inspect_files(base, names.values())
        splits[split] = []
        notes, strays = _by_image(document)
        problems += [
            Problem(path, f"annotation {stray} is of an image that is not listed") for stray in strays
        ]
        for image in document["images"]:
            name = names[image["id"]]
            try:
                _check_size(image, facts[name])
                things = [_thing(note, labels, facts[name], masks) for note in notes[image["id"]]]
                splits[split].append(BoxedImage(name.replace(os.sep, "/"), tuple(things)))
            except BadImage as error:
                problems.append(Problem(base / name, str(error)))
    skipped = leave_out(problems, skip_bad=request.skip_bad)
    facts = {name.replace(os.sep, "/"): fact for name, fact in facts.items()}
    how = f"with {', '.join(splits)} annotations"
    if len(files) == 1:
        splits = _held_out(next(iter(splits.values())), request.seed)
        how = f"{_SHARE:.0%} of the images held out for the test (seed {request.seed})"
    if not splits["train"]:
        raise UserError(f"{request.path}: no usable image is left to train on")
    size = request.size or native_size(facts[each.name] for part in splits.values() for each in part)
    sets = {
        split: BoxedImages(base, part, size=size, channels=request.channels, facts=facts, masks=masks)
        for split, part in splits.items()
        if part
    }
    return TaskData(
        spec=request.spec,
        layout=f"COCO annotations ({len(classes)} classes: {', '.join(classes[:10])}), {how}",
        train=sets["train"],
        val=sets.get("val"),
        test=sets.get("test"),
        info=DataInfo(request.channels, size, classes),
        skipped=skipped,
    )


def _files(root: Path) -> dict[str, Path]:
    """The annotation file of each split; a single file is "train"."""
    if not root.exists():
        raise UserError(f"{root}: no such file or folder; check the path")
    found = [root] if root.is_file() else annotation_files(root)
    instances = [path for path in found if path.stem.startswith("instances")]
    found = instances or found
    if not found:
        raise UserError(f"{root}: no COCO annotation file (.json) in it; {KNOWN_LAYOUTS}")
    if len(found) == 1:
        return {"train": found[0]}
    by_split: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        match = _SPLIT.search(path.stem.lower()) or _SPLIT.search(path.parent.name.lower())
        by_split[match[1] if match else ""].append(path)
    for split, paths in by_split.items():
        if not split or len(paths) > 1:
            names = ", ".join(str(path) for path in paths)
            what = (
                f"several annotation files for '{split}'" if split else "annotation files of no known split"
            )
            raise UserError(f"{root}: {what} ({names}); give one of them, such as coco:{paths[0]}")
    if "train" not in by_split:
        raise UserError(f"{root}: no annotation file for training, only for {', '.join(by_split)}")
    if "test" not in by_split:
        by_split["test"] = by_split.pop("val")
    return {split: by_split[split][0] for split in ("train", "val", "test") if split in by_split}


def _read(path: Path) -> Document:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); export the annotations again") from error
    needed = {
        "images": ("id", "file_name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    for part, keys in needed.items():
        rows = document.get(part) if isinstance(document, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(
                f"{path}: has no list '{part}', so it is not a COCO file; export it as COCO instances"
            )
        for i, row in enumerate(rows):
            missing = [key for key in keys if key not in row]
            if missing:
                raise UserError(f"{path}: {part}[{i}] has no '{missing[0]}'; export the annotations again")
    return document


def _categories(
    files: Mapping[str, Path], documents: Mapping[str, Document]
) -> tuple[dict[int, int], tuple[str, ...]]:
    """The label of each category id, and the class names in the order of the labels."""
    names: dict[int, str] = {}
    for split, document in documents.items():
        for category in document["categories"]:
            if names.setdefault(category["id"], str(category["name"])) != str(category["name"]):
                raise UserError(
                    f"{files[split]}: category {category['id']} is '{category['name']}' here but "
                    f"'{names[category['id']]}' in another file; give every split the same categories"
                )
    ordered = sorted(names)
    return {number: label for label, number in enumerate(ordered)}, tuple(names[n] for n in ordered)


def _image_folder(path: Path, document: Document, base: Path, chosen: str) -> Path:
    name = path.stem.rpartition("_")[2]
    above = path.parent.parent if path.parent.name == "annotations" else path.parent
    folders = [
        path.parent,
        path.parent / "images",
        above,
        above / "images",
        above / name,
        above / "images" / name,
    ]
    if chosen:
        folders = [base / Path(chosen).expanduser()]
    first = [image["file_name"] for image in document["images"][:20]]
    hits = {folder: sum((folder / name).exists() for name in first) for folder in folders}
    best = max(hits, key=lambda folder: hits[folder])
    if first and not hits[best]:
        searched = ", ".join(str(folder) for folder in dict.fromkeys(folders))
        raise UserError(
            f"{path}: its images, such as {first[0]}, are in none of {searched}; append ?images=FOLDER to the spec"
        )
    return best


def _by_image(document: Document) -> tuple[dict[Any, list[dict[str, Any]]], list[Any]]:
    """The annotations of each image that stand for one thing, and the ids of those without an image."""
    notes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    strays = []
    for note in document["annotations"]:
        if note["image_id"] not in notes:
            strays.append(note["id"])
        elif not note.get("iscrowd"):
            notes[note["image_id"]].append(note)
    return notes, strays


def _check_size(image: Mapping[str, Any], fact: Facts) -> None:
    if fact.problem:
        raise BadImage(fact.problem)
    stated = (image.get("height", fact.height), image.get("width", fact.width))
    if stated != fact.size:
        turned = " once turned as its EXIF tag says" if stated == fact.size[::-1] else ""
        raise BadImage(
            f"is {fact.height} x {fact.width} pixels (height x width){turned}, but its annotations say "
            f"{stated[0]} x {stated[1]}; annotate the image as it is shown"
        )


def _thing(note: Mapping[str, Any], labels: Mapping[int, int], fact: Facts, masks: bool) -> Thing:
    where = f"annotation {note['id']}"
    if note["category_id"] not in labels:
        raise BadImage(
            f"{where} has the category {note['category_id']}, which is not listed; add it or correct it"
        )
    box = note["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
        raise BadImage(f"{where} has the box {box}; four numbers were expected: left, top, width, height")
    left, top = max(0.0, float(box[0])), max(0.0, float(box[1]))
    right, bottom = min(fact.width, float(box[0] + box[2])), min(fact.height, float(box[1] + box[3]))
    if right <= left or bottom <= top:
        raise BadImage(f"{where} has the box {box}, which covers no pixel of the image; correct or remove it")
    outline = _outline(note, fact, where) if masks else {}
    return Thing((left, top, right, bottom), labels[note["category_id"]], **outline)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _outline(note: Mapping[str, Any], fact: Facts, where: str) -> dict[str, Any]:
    outline = note.get("segmentation")
    if isinstance(outline, list) and outline and all(_is_polygon(polygon) for polygon in outline):
        return {"polygons": tuple(tuple(map(float, polygon)) for polygon in outline)}
    if isinstance(outline, dict) and isinstance(outline.get("counts"), str):
        raise BadImage(f"{where} has a compressed outline; export polygons, or uncompressed run lengths")
    if isinstance(outline, dict) and isinstance(outline.get("counts"), list):
        runs = outline["counts"]
        if all(isinstance(run, int) and run >= 0 for run in runs) and sum(runs) == fact.height * fact.width:
            return {"runs": tuple(runs)}
        raise BadImage(f"{where} has run lengths that do not add up to its image; export it again")
    raise BadImage(f"{where} has no outline to draw its mask from; leave out masks=true, or export outlines")


def _is_polygon(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) >= 6
        and len(points) % 2 == 0
        and all(_is_number(value) for value in points)
    )


def _held_out(images: list[BoxedImage], seed: int) -> dict[str, list[BoxedImage]]:
    test = hold_out([image.name for image in images], [""] * len(images), _SHARE, seed)
    return {
        "train": [image for i, image in enumerate(images) if i not in test],
        "test": [image for i, image in enumerate(images) if i in test],
    }
