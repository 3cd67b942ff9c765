"""Learning what sentences and questions say of a picture."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.scenes_learning.measures import Outcome, Samples, share_equal
from benchmarks.scenes_learning.networks import Answering, Words, predict, train
from pinakes.scenes.forms import CLASSES, COLOURS
from pinakes.scenes.wording import ANSWERS, PLURALS, TEXTURE_WORDS, VOCABULARY

SINGULARS = {plural: name for name, plural in PLURALS.items()}
MIRRORED = {"left": "right", "right": "left"}
VISIBLE = (CLASSES, tuple(COLOURS), tuple(TEXTURE_WORDS.values()))
"""Words for what can be seen, in groups of which a thing has one each."""


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


def replaced(texts: list[str], words: dict[str, str]) -> list[str]:
    """Questions with some of their words replaced."""
    return [" ".join(words.get(word, word) for word in text.rstrip("?").split()) for text in texts]


def both_ways(samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, words of questions and numbers of answers, then the same in a mirror, left and right exchanged."""
    image, label = samples["image"], samples["label"]
    asked = replaced(samples["question"], SINGULARS)
    words = torch.cat([words_of(asked), words_of(replaced(asked, MIRRORED))])
    return torch.cat([image, image.flip(3)]), words, torch.cat([label, label])


def questions(training: Samples, held_out: Samples, steps: int) -> Outcome:
    """Cross entropy over all words as the answer, and over those that are seen, as far as the question tells.

    What a question names is there, and so is its answer, unless that is "no".
    """
    said = torch.tensor([VOCABULARY.index(answer) for answer in ANSWERS])
    groups = [torch.tensor([VOCABULARY.index(word) for word in words]) for words in VISIBLE]
    image, words, label = both_ways(training)
    told = (words + F.one_hot(said[label], len(VOCABULARY))).clamp_max(1)
    told[label == ANSWERS.index("no")] = 0

    def loss(scores: Tensor, answer: Tensor, told: Tensor) -> Tensor:
        answers, seen = scores.unbind(1)
        unseen = sum(F.cross_entropy(seen[:, group], told[:, group]) for group in groups)
        return F.cross_entropy(answers, answer) + 3 * unseen

    network = train(Answering(len(VOCABULARY)), [image, words], [said[label], told], loss, steps)
    kinds = [np.array(samples["kind"]) for samples in (training, held_out)]
    truth, expected = training["label"], held_out["label"]
    usual = {kind: truth[torch.from_numpy(kinds[0] == kind)].mode().values for kind in set(kinds[0])}
    blind = torch.stack([usual[kind] for kind in kinds[1]])
    asked = words_of(replaced(held_out["question"], SINGULARS))
    answers = predict(network, held_out["image"], asked)[:, 0].argmax(1)
    return Outcome(share_equal(answers, said[expected]), share_equal(blind, expected))
