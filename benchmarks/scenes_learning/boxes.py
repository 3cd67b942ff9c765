"""Learning where things are: a detector of cells without anchors."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, nms

from benchmarks.scenes_learning.measures import Outcome, Samples
from benchmarks.scenes_learning.networks import Dense, predict, train
from pinakes.scenes.forms import CLASSES

CELL = 4
"""Pixels a cell of the detector."""


def in_cells(samples: Samples) -> tuple[Tensor, Tensor]:
    """For each cell whose centre is in the inner half of a box, 1 for its class, and the box's edges around it."""
    height, width = samples["image"].shape[-2:]
    v, u = torch.meshgrid(
        torch.arange(height // CELL) * CELL + CELL / 2,
        torch.arange(width // CELL) * CELL + CELL / 2,
        indexing="ij",
    )
    places = torch.stack([u, v, u, v])
    kinds = torch.zeros(len(samples["image"]), len(CLASSES), *u.shape)
    edges = torch.zeros(len(kinds), 4, *u.shape)
    for i, (boxes, labels) in enumerate(zip(samples["boxes"], samples["labels"], strict=True)):
        larger_first = ((boxes[:, 2:] - boxes[:, :2]).prod(1)).argsort(descending=True)
        for box, label in zip(boxes[larger_first], labels[larger_first], strict=True):
            middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp_min(2 * CELL) / 4
            inside = ((places[:2] - middle[:, None, None]).abs() <= half[:, None, None]).all(0)
            kinds[i, :, inside] = 0
            kinds[i, label, inside] = 1
            edges[i, :, inside] = (box[:, None, None] - places)[:, inside]
    return kinds, edges


def boxes_from(answer: Tensor, threshold: float = 0.1) -> tuple[Tensor, Tensor]:
    """Boxes (box, 4) and classes (box) that a detector's answer for one picture tells of."""
    score, kind = answer[: len(CLASSES)].sigmoid().max(0)
    v, u = (score > threshold).nonzero().T
    centre = (torch.stack([u, v, u, v], 1) + 0.5) * CELL
    boxes, labels = centre + answer[len(CLASSES) :, v, u].T * CELL, kind[v, u]
    kept = nms(boxes, score[v, u], 0.5)
    return boxes[kept], labels[kept]


def f1_of_boxes(found: list[tuple[Tensor, Tensor]], held_out: Samples) -> float:
    """F1 of boxes of the right class that overlap a true one, each true one once, by at least half of their union."""
    right = said = true = 0
    for (boxes, kinds), expected, labels in zip(found, held_out["boxes"], held_out["labels"], strict=True):
        good = (box_iou(boxes, expected) >= 0.5) & (kinds[:, None] == labels)
        right += int(min(good.any(0).sum(), good.any(1).sum()))
        said, true = said + len(boxes), true + len(expected)
    return 2 * right / max(said + true, 1)


def detection(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Binary cross entropy on the class of each cell, and the distance to the box's edges where there is one."""

    def loss(answer: Tensor, kinds: Tensor, edges: Tensor) -> Tensor:
        said, around = answer.split((len(CLASSES), 4), 1)
        count = kinds.sum().clamp_min(1)
        off = F.smooth_l1_loss(around, edges / CELL, reduction="none").sum(1) * kinds.amax(1)
        return (F.binary_cross_entropy_with_logits(said, kinds, reduction="sum") + 0.5 * off.sum()) / count

    network = Dense(len(CLASSES) + 4, cells=True)
    train(network, [training["image"]], in_cells(training), loss, steps)
    answers = predict(network, held_out["image"])
    by_chance = list(zip(training["boxes"], training["labels"], strict=True))[: len(answers)]
    return Outcome(
        f1_of_boxes([boxes_from(answer) for answer in answers], held_out), f1_of_boxes(by_chance, held_out)
    )
