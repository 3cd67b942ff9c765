"""Learning what is in a picture: classes, attributes, and relations of two things."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes_learning.measures import Outcome, Samples, most_common, share_equal
from benchmarks.scenes_learning.networks import Pooled, predict, train
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.labels.table import CHOICES, MORPHOMETRIC, OTHER
from pinakes.scenes.relations import RELATIONS


def classification(training: Samples, held_out: Samples, steps: int, prior: Tensor | None = None) -> Outcome:
    """Cross entropy on `label`; with a prior, of logits to which its logarithm is added."""
    added = torch.zeros(len(CLASSES)) if prior is None else prior.log()

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits + added, label)

    network = train(Pooled(len(CLASSES)), [training["image"]], [training["label"]], loss, steps)
    answers = predict(network, held_out["image"]).argmax(1)
    expected = held_out["label"]
    return Outcome(share_equal(answers, expected), share_equal(most_common(training["label"]), expected))


def attributes(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Binary cross entropy on every attribute."""
    truth = training["attributes"]
    network = Pooled(truth.shape[1])
    train(network, [training["image"]], [truth], F.binary_cross_entropy_with_logits, steps)
    answers = (predict(network, held_out["image"]) > 0).float()
    expected = held_out["attributes"]
    return Outcome(1 - share_equal(answers, expected), 1 - share_equal(most_common(truth), expected))


def measurements(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Smooth absolute error of the quantities in a row of the table, each brought to mean 0 and deviation 1."""
    names = (*MORPHOMETRIC, *OTHER)
    quantities = [place for place, name in enumerate(names) if name not in CHOICES]
    deviation, mean = torch.std_mean(training["table"][:, quantities], dim=0)
    truth, expected = ((each["table"][:, quantities] - mean) / deviation for each in (training, held_out))
    network = train(Pooled(len(quantities)), [training["image"]], [truth], F.smooth_l1_loss, steps)
    answers = predict(network, held_out["image"])
    return Outcome((answers - expected).abs().mean().item(), expected.abs().mean().item())


def longtail(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy with the share of each class as prior."""
    share = torch.bincount(training["label"], minlength=len(CLASSES)).clamp_min(1) / len(training["label"])
    return classification(training, held_out, steps, share)


def groups(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy in which the four combinations of class and group weigh the same."""
    combination = 2 * training["label"] + training["group"]
    weight = 1 / torch.bincount(combination, minlength=4).clamp_min(1)[combination]

    def loss(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        return (F.cross_entropy(logits, label, reduction="none") * weight).sum() / weight.sum()

    network = train(Pooled(2), [training["image"]], [training["label"], weight], loss, steps)
    answers = predict(network, held_out["image"]).argmax(1)
    return Outcome(share_equal(answers, held_out["label"]), share_equal(held_out["group"], held_out["label"]))


def pairs_of_things(samples: Samples) -> tuple[Tensor, Tensor]:
    """For every relation the picture with the boxes of subject and object as two more channels, and its number."""
    height, width = samples["image"].shape[-2:]
    v, u = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    pictures, names = [], []
    for image, boxes, triplets in zip(samples["image"], samples["boxes"], samples["triplets"], strict=True):
        left, top, right, bottom = boxes.T[:, :, None, None]
        inside = ((u >= left) & (u < right) & (v >= top) & (v < bottom)).float()
        for subject, relation, target in triplets.tolist():
            pictures.append(torch.cat([image, inside[[subject, target]]]))
            names.append(relation)
    return torch.stack(pictures), torch.tensor(names)


def relations(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy."""
    (pictures, names), (tested, expected) = pairs_of_things(training), pairs_of_things(held_out)
    network = train(Pooled(len(RELATIONS), 5), [pictures], [names], F.cross_entropy, steps)
    return Outcome(
        share_equal(predict(network, tested).argmax(1), expected), share_equal(most_common(names), expected)
    )
