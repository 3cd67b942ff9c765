"""Learning what sentences and questions say of a picture."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes_learning.measures import Outcome, Samples, share_equal
from benchmarks.scenes_learning.networks import Words, predict, train
from pinakes.scenes.wording import VOCABULARY


def words_of(texts: list[str]) -> Tensor:
    """How often each word of the vocabulary is in each text."""
    said = [text.replace(",", " ").replace("?", " ").split() for text in texts]
    return torch.tensor([[float(words.count(word)) for word in VOCABULARY] for words in said])


def captions(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy between the pictures and sentences of a batch, both ways."""

    def loss(both: Tensor) -> Tensor:
        alike = 10 * both[:, 0] @ both[:, 1].T
        own = torch.arange(len(alike))
        return F.cross_entropy(alike, own) + F.cross_entropy(alike.T, own)

    texts = [words_of(samples["captions"]) for samples in (training, held_out)]
    network = train(Words(len(VOCABULARY)), [training["image"], texts[0]], [], loss, steps)
    both = predict(network, held_out["image"], texts[1])
    random = torch.rand(len(both), len(both), generator=torch.Generator().manual_seed(0))
    ranks = [
        (each > each.diagonal()[:, None]).float().mean().item()
        for each in (both[:, 0] @ both[:, 1].T, random)
    ]
    return Outcome(*ranks)


def questions(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy over all answers."""
    texts = [words_of(samples["question"]) for samples in (training, held_out)]
    answer, expected = training["label"], held_out["label"]
    network = Words(len(VOCABULARY), int(answer.max()) + 1)
    train(network, [training["image"], texts[0]], [answer], F.cross_entropy, steps)
    kinds = [np.array(samples["kind"]) for samples in (training, held_out)]
    usual = {kind: answer[torch.from_numpy(kinds[0] == kind)].mode().values for kind in set(kinds[0])}
    blind = torch.stack([usual[kind] for kind in kinds[1]])
    answers = predict(network, held_out["image"], texts[1]).argmax(1)
    return Outcome(share_equal(answers, expected), share_equal(blind, expected))
