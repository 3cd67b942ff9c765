"""Detectors that say in which images something is found: torchvision's, for things of COCO, or a function of yours.

A detector is a function of images, a list of tensors (3, height, width) in [0, 1], each of its own size. It answers
each with a dict that holds `scores`, one number from 0 to 1 for each thing found, and, if it knows them, `boxes` (left,
top, right, bottom in pixels, a row for each) and `labels` (a word for each). A detection model of torchvision in
evaluation mode answers so.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pinakes.errors import UserError, suggest

Detector = Callable[[list[Tensor]], Sequence[Mapping[str, Any]]]

COCO = "coco"
WAYS = f"{COCO}:person (or other things of COCO, with commas), or MODULE:FUNCTION for a detector of yours"


@dataclass(frozen=True)
class Found:
    """Something that was found in an image.

    Args:
        score: How sure the detector is, 0 to 1.
        label: What it is, or an empty string.
        box: Left, top, right and bottom in pixels, or None.
    """

    score: float
    label: str
    box: tuple[float, float, float, float] | None


def load_detector(name: str, *, device: str = "cpu") -> Detector:
    """A detector by name.

    Args:
        name: "coco:person", or other things of COCO separated by commas, for torchvision's Faster R-CNN; or
            "module:function", which is imported, from the working directory too.
        device: Where torchvision's detector runs; a function of yours is given tensors on the CPU.

    Raises:
        UserError: If there is no such detector, or its weights cannot be had.
    """
    module, colon, rest = name.partition(":")
    if not colon or not module or not rest:
        raise UserError(f"detector: '{name}' is none; give {WAYS}")
    return _coco(rest.split(","), device) if module == COCO else _imported(module, rest)


def ask(detector: Detector, images: list[Tensor], name: str) -> list[list[Found]]:
    """What a detector finds in images, the surest first.

    Args:
        detector: The detector.
        images: The images, (3, height, width) in [0, 1].
        name: What the detector is called, for errors.

    Raises:
        UserError: If it does not answer as a detector does.
    """
    answers = list(detector(images))
    if len(answers) != len(images):
        raise UserError(f"detector: {name} was asked of {len(images)} images and answered {len(answers)}")
    return [_read(answer, name) for answer in answers]


def _read(answer: Mapping[str, Any], name: str) -> list[Found]:
    if not isinstance(answer, Mapping) or "scores" not in answer:
        raise UserError(f"detector: {name} must answer each image with a dict that holds 'scores'")
    scores = [float(score) for score in answer["scores"]]
    boxes = [tuple(float(side) for side in box) for box in answer.get("boxes", ())]
    labels = [str(label) for label in answer.get("labels", ())]
    for what, values in (("boxes", boxes), ("labels", labels)):
        if values and len(values) != len(scores):
            raise UserError(f"detector: {name} gave {len(scores)} scores and {len(values)} {what}")
    if not all(0 <= score <= 1 for score in scores) or any(len(box) != 4 for box in boxes):
        raise UserError(f"detector: {name} must give scores from 0 to 1, and boxes of four numbers")
    found = [
        Found(score, labels[place] if labels else "", boxes[place] if boxes else None)  # type: ignore[arg-type]  # four numbers
        for place, score in enumerate(scores)
    ]
    return sorted(found, key=lambda each: -each.score)


def _imported(module: str, function: str) -> Detector:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise UserError(f"detector: {module} cannot be imported ({error}); give {WAYS}") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UserError(f"detector: {module} has no function '{function}'; give {WAYS}")
    detector: Detector = found
    return detector


def _coco(things: Sequence[str], device: str) -> Detector:
    from torchvision.models import detection

    from pinakes.engine.plan import torch_device

    weights = detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1
    names = weights.meta["categories"]
    wanted = [thing.strip() for thing in things]
    for thing in wanted:
        if thing not in names or thing in ("__background__", "N/A"):
            raise UserError(f"detector: COCO has no '{thing}'{suggest(thing, names)}")
    place = torch_device(device)
    try:
        network = detection.fasterrcnn_resnet50_fpn_v2(weights=weights, weights_backbone=None)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"detector: the weights of torchvision's Faster R-CNN cannot be had ({type(error).__name__}). Where there "
            f"is a network, run once to cache them in {torch.hub.get_dir()}/checkpoints, or put the file there from "
            f"{weights.url}; or give a detector of yours, MODULE:FUNCTION"
        ) from error
    network = network.to(place).eval()

    @torch.no_grad()
    def detect(images: list[Tensor]) -> list[dict[str, Any]]:
        answers = []
        for found in network([image.to(place) for image in images]):
            labels = [names[number] for number in found["labels"].tolist()]
            kept = [number for number, label in enumerate(labels) if label in wanted]
            answers.append(
                {
                    "scores": found["scores"][kept].tolist(),
                    "boxes": found["boxes"][kept].tolist(),
                    "labels": [labels[number] for number in kept],
                }
            )
        return answers

    return detect
