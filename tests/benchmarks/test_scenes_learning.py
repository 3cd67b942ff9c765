"""The benchmark of learned labels: its bar, its jobs, and a few steps of three of them."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks.scenes_learning import learn
from benchmarks.scenes_learning.boxes import boxes_from, f1_of_boxes, in_cells
from benchmarks.scenes_learning.jobs import JOBS
from benchmarks.scenes_learning.measures import Measure, Outcome
from benchmarks.scenes_learning.networks import Answering
from benchmarks.scenes_learning.words import both_ways, words_of
from pinakes.scenes.forms import CLASSES
from pinakes.scenes.labels import LABELS
from pinakes.scenes.wording import VOCABULARY


def test_every_label_has_a_job() -> None:
    assert list(JOBS) == list(LABELS)


def test_the_bar_is_a_third_of_the_way_from_chance_to_perfect() -> None:
    accuracy, error = Measure("accuracy", 1), Measure("mean error", 0)
    assert accuracy.bar(0.1) == pytest.approx(0.4)
    assert error.bar(3.0) == pytest.approx(2.0)
    assert accuracy.is_met(Outcome(0.5, 0.1))
    assert not accuracy.is_met(Outcome(0.3, 0.1))
    assert error.is_met(Outcome(1.9, 3.0))
    assert not error.is_met(Outcome(2.1, 3.0))


@pytest.mark.parametrize("label", ["groups", "depth", "questions"])
def test_a_few_steps_give_a_row_and_the_same_one_again(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JOBS, label, replace(JOBS[label], options="size=16&n=80"))
    row, again = (learn(label, steps=3) for _ in range(2))
    assert row["steps"] == 3
    assert math.isfinite(row["score"])
    assert row["bar"] == pytest.approx(JOBS[label].measure.bar(row["chance"]), abs=1e-3)
    assert (row["score"], row["chance"]) == (again["score"], again["chance"])


def test_the_true_cells_give_the_true_boxes() -> None:
    boxes, labels = torch.tensor([[4.0, 6.0, 20.0, 18.0], [22.0, 20.0, 31.0, 32.0]]), torch.tensor([3, 7])
    samples = {"image": torch.zeros(1, 3, 32, 32), "boxes": [boxes], "labels": [labels]}
    kinds, edges = in_cells(samples)
    found, said = boxes_from(torch.cat([20 * kinds[0] - 10, edges[0] / 4]))
    order = found[:, 0].argsort()
    torch.testing.assert_close(found[order], boxes)
    assert said[order].tolist() == labels.tolist()
    assert f1_of_boxes([(found, said)], samples) == 1
    assert f1_of_boxes([(found, (said + 1) % len(CLASSES))], samples) == 0


def test_a_mirrored_question_exchanges_left_and_right_and_counts_in_the_singular() -> None:
    samples = {
        "image": torch.rand(2, 3, 16, 16),
        "question": ["is the mug left of the box?", "how many boxes are there?"],
        "label": torch.tensor([0, 2]),
    }
    image, words, label = both_ways(samples)
    torch.testing.assert_close(image[2:], samples["image"].flip(3))
    said = ["is the mug left of the box?", "how many box are there?"]
    assert words.equal(words_of([*said, said[0].replace("left", "right"), said[1]]))
    assert label.tolist() == [0, 2, 0, 2]


def test_a_question_attends_to_the_cells_where_its_words_are_seen() -> None:
    torch.manual_seed(0)
    network = Answering(len(VOCABULARY)).eval()
    image, words = torch.rand(2, 3, 32, 32), words_of(["what colour is the mug", "is there a cone"])
    scores = network.see(network.encoder(image)).flatten(2)
    expected = []
    for question, cells, features in zip(words, scores, network.encoder(image).flatten(2), strict=True):
        attention = torch.stack([cells[question > 0, i].sum() for i in range(cells.shape[1])]).softmax(0)
        seen, there = cells.exp().sum(1).log(), (cells * attention).sum(1)
        joined = [network.read(question), seen, seen * question, (features * attention).sum(1), there]
        of_seen, of_there, of_words = network.weigh(question)
        direct = of_seen * seen + of_there * there + of_words * question
        expected.append(torch.stack([network.answer(torch.cat(joined)) + direct, seen]))
    torch.testing.assert_close(network(image, words), torch.stack(expected))
