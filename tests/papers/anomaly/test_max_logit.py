"""The largest logit against a naive loop, and what a softmax does to similar classes."""

import pytest
import torch

from pinakes import UserError, load_data
from pinakes.papers.anomaly.max_logit import MaxLogit, max_logit_score
from pinakes.papers.anomaly.max_softmax import max_softmax_score

BACKBONE = "pinakes/tiny_conv@random"


def test_score_equals_the_naive_loop() -> None:
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    expected = [-max(row) for row in logits.tolist()]
    torch.testing.assert_close(max_logit_score(logits), torch.tensor(expected))


def test_similar_classes_divide_the_probability_but_not_the_logit() -> None:
    one_class, two_alike = torch.tensor([[8.0, 0.0, 0.0]]), torch.tensor([[8.0, 8.0, 0.0]])
    assert max_softmax_score(two_alike) > max_softmax_score(one_class) + 0.4
    assert torch.equal(max_logit_score(two_alike), max_logit_score(one_class))


def test_detector_scores_the_logits_of_its_classifier() -> None:
    data = load_data("digits?n=40", task="ood")
    detector = MaxLogit(backbone=BACKBONE).fit(data, steps=1, batch_size=4)
    image = torch.stack([data.test[i]["image"] for i in range(3)])  # type: ignore[index]  # digits have a test part
    with torch.no_grad():
        logits = detector.classifier(image)
    found = detector.predict(image)
    torch.testing.assert_close(found["score"], -logits.amax(1))
    assert torch.equal(found["label"], logits.argmax(1))


def test_an_option_out_of_range_is_named() -> None:
    with pytest.raises(UserError, match="learning_rate"):
        MaxLogit(learning_rate=-1.0)
