"""Learning an answer for every pixel of a picture."""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes_learning.measures import Outcome, Samples, most_common, share_equal
from benchmarks.scenes_learning.networks import Dense, predict, train
from pinakes.scenes.forms import CLASSES


def segmentation(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy on every pixel."""
    truth = training["semantic"]
    network = train(Dense(len(CLASSES) + 2), [training["image"]], [truth], F.cross_entropy, steps)
    answers = predict(network, held_out["image"]).argmax(1)
    expected = held_out["semantic"]
    return Outcome(share_equal(answers, expected), share_equal(most_common(truth), expected))


def answers_and_mean(training: Tensor, truth: Tensor, held_out: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """What a network that was trained on maps of numbers says of held-out pictures, and the mean map of training.

    The network learns the difference from the mean map, by its smooth absolute error.
    """
    mean, deviation = truth.mean(0, keepdim=True), truth.std()
    network = Dense(truth.shape[1])
    train(network, [training], [(truth - mean) / deviation], F.smooth_l1_loss, steps)
    return predict(network, held_out) * deviation + mean, mean


def depth(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """The logarithm of depth, and its absolute error."""
    truth, expected = (samples["depth"][:, None].log() for samples in (training, held_out))
    found = answers_and_mean(training["image"], truth, held_out["image"], steps)
    return Outcome(*((each - expected).abs().mean().item() for each in found))


def normals(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """The normal, and its angle to the true one."""
    found = answers_and_mean(training["image"], training["normal"], held_out["image"], steps)
    cosines = [F.cosine_similarity(each, held_out["normal"]).clamp(-1, 1) for each in found]
    return Outcome(*(cosine.acos().rad2deg().mean().item() for cosine in cosines))


def intrinsics(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Albedo and shading, and their absolute error."""
    truth, expected = (torch.cat([each["albedo"], each["shading"]], 1) for each in (training, held_out))
    found = answers_and_mean(training["image"], truth, held_out["image"], steps)
    return Outcome(*((each - expected).abs().mean().item() for each in found))
