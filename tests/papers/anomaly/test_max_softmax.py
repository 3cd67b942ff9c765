"""Maximum softmax probability against SciPy, and what the classifier behind it learns."""

import numpy as np
import torch
from scipy.special import softmax

import pinakes
from pinakes.papers.anomaly.max_softmax import Chance, max_softmax_score


def test_score_is_minus_the_largest_probability() -> None:
    logits = np.random.default_rng(0).normal(size=(20, 7)) * 5
    expected = torch.tensor(-softmax(logits, axis=1).max(1))
    torch.testing.assert_close(max_softmax_score(torch.tensor(logits)), expected)


def test_large_logits_do_not_overflow() -> None:
    torch.testing.assert_close(max_softmax_score(torch.tensor([[1e4, 0.0]])), torch.tensor([-1.0]))


def test_the_classifier_learns_the_known_classes_and_chance_tells_nothing() -> None:
    data = pinakes.load_data("digits?far=none", task="ood")
    found = pinakes.create("max-softmax").fit(data, steps=40, batch_size=32).evaluate(data)
    assert found["accuracy"] > 0.8
    assert Chance().fit(data, steps=1, batch_size=4).evaluate(data)["auroc"] == 0.5
