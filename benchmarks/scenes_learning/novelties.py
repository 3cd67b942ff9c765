"""Telling what is new from what is normal by frozen features."""

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.scenes_learning.measures import Outcome, Samples
from pinakes.nn.backbones import FeatureExtractor


@torch.no_grad()
def patches(images: Tensor, layers: tuple[int, ...]) -> Tensor:
    """Frozen features of the embedded network, (image, patch, width), of all layers at the first one's resolution."""
    extract = FeatureExtractor("pinakes/tiny_conv", layers).freeze()
    found = []
    for part in images.split(100):
        maps = extract(part)
        joined = [F.interpolate(F.avg_pool2d(each, 3, 1, 1), maps[0].shape[-2:]) for each in maps]
        found.append(torch.cat(joined, 1).flatten(2).transpose(1, 2))
    return torch.cat(found)


def novelty(training: Tensor, held_out: Samples, tested: Tensor) -> Outcome:
    """AUROC of the largest distance of a patch to the nearest one of training; chance gives all the same score."""
    memory = training.flatten(0, 1)
    scores = torch.stack([torch.cdist(patch, memory).amin(1).amax() for patch in tested])
    label = held_out["label"]
    return Outcome(float(roc_auc_score(label, scores)), float(roc_auc_score(label, torch.zeros(len(label)))))


def pictures(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Distance to the nearest features of training; nothing is trained."""
    means = [patches(part["image"], (3,)).mean(1, keepdim=True) for part in (training, held_out)]
    return novelty(means[0], held_out, means[1])


def places(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Distance of the strangest patch to the nearest one of good parts; nothing is trained."""
    return novelty(patches(training["image"], (1, 2)), held_out, patches(held_out["image"], (1, 2)))
