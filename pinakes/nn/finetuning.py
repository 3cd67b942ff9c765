"""Fine-tuning: how good a classifier a pretrained encoder becomes with some of the labels."""

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pinakes.data.base import SampleSet
from pinakes.data.views import labels_of
from pinakes.engine.seeds import isolated
from pinakes.errors import UserError
from pinakes.nn.augment import flipped, shifted

if TYPE_CHECKING:
    from pinakes.method import Method

STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 300, 64, 1e-3, 0.05


def some_of_each_class(part: SampleSet, classes: int, share: float) -> list[int]:
    """Places of a share of the labelled samples of each class, at least one of each; the same ones every time.

    Args:
        part: Samples, of which some have a label.
        classes: How many classes there are.
        share: 0 to 1.
    """
    labels = np.array([-1 if each is None else each for each in labels_of(part)])
    rng = np.random.default_rng(0)
    places: list[int] = []
    for label in range(classes):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        places += of_class[: max(1, round(share * len(of_class)))].tolist()
    return places


def finetuned_accuracy(method: "Method", test: SampleSet, train: SampleSet, share: float) -> float:
    """The accuracy of a copy of a method that is trained, with a linear layer on its embedding, on some labels.

    AdamW, 300 steps of 64 images that are moved and mirrored at random; the learning rate falls to 0 as a cosine.

    Args:
        method: A fitted method; its `encode` gives the embedding of images, with gradients.
        test: Labelled samples to judge on.
        train: Samples to learn from, of which some have a label.
        share: Of the labelled samples of each class that are learnt from, 0 to 1; at least one of each.

    Raises:
        UserError: If the method has no `encode`.
    """
    classes = len(method.info.classes)
    if not hasattr(method, "encode"):
        raise UserError(f"finetune: {type(method).__name__} has no encode to train; leave it out")
    places = some_of_each_class(train, classes, share)

    def drawn(rows: list[int]) -> tuple[Tensor, Tensor]:
        # of those few that a step needs, so that a large training set need not fit in memory
        samples = [train[places[row]] for row in rows]
        image = torch.stack([each["image"] for each in samples]).to(method.device)
        return image, torch.tensor([int(each["label"]) for each in samples], device=method.device)

    with isolated(0), torch.enable_grad():
        tuned: Any = copy.deepcopy(method).train().requires_grad_(True)
        head = nn.Linear(tuned.encode(drawn([0, -1])[0])["embedding"].shape[1], classes).to(method.device)
        optimiser = torch.optim.AdamW(
            [*tuned.parameters(), *head.parameters()], LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        course = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
        for _ in range(STEPS):
            image, truth = drawn(torch.randint(len(places), (min(BATCH, len(places)),)).tolist())
            logits = head(tuned.encode(flipped(shifted(image)))["embedding"])
            optimiser.zero_grad()
            functional.cross_entropy(logits, truth).backward()
            optimiser.step()
            course.step()
    tuned.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(test), 2 * BATCH):
            samples = [test[index] for index in range(start, min(len(test), start + 2 * BATCH))]
            said = head(
                tuned.encode(torch.stack([each["image"] for each in samples]).to(method.device))["embedding"]
            )
            wanted = torch.tensor([int(each["label"]) for each in samples], device=method.device)
            right += int((said.argmax(1) == wanted).sum())
    return right / len(test)
