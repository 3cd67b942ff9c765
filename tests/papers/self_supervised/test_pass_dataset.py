from collections import Counter

import pytest

import pinakes
from pinakes.data import load_data
from pinakes.data.base import TaskData
from pinakes.engine.plan import TrainingPlan
from pinakes.papers.self_supervised.pass_dataset import PASS


@pytest.fixture(scope="module")
def digits() -> TaskData:
    return load_data("digits?n=200", task=PASS().task)


def seen(method: PASS, data: TaskData, seed: int = 0) -> Counter[int]:
    """How many images of each class are trained on."""
    divided, _ = method.divide(data, TrainingPlan(seed=seed))
    return Counter(int(divided.train[place]["label"]) for place in range(len(divided.train)))


def test_no_image_of_the_named_classes_is_trained_on_and_all_others_are(digits: TaskData) -> None:
    every = Counter(int(digits.train[place]["label"]) for place in range(len(digits.train)))
    names = digits.classes[3], digits.classes[7]
    found = seen(PASS(without=", ".join(names)), digits)
    assert found == {label: count for label, count in every.items() if label not in (3, 7)}
    assert 9 not in seen(PASS(), digits)


def test_at_random_as_many_images_of_any_class_are_left_out(digits: TaskData) -> None:
    without, at_random = seen(PASS(), digits), seen(PASS(at_random=True), digits)
    assert at_random.total() == without.total() < len(digits.train)
    assert set(at_random) == set(range(10))
    assert seen(PASS(at_random=True), digits, seed=1) != at_random


def test_probes_are_fitted_and_judged_on_all_classes(digits: TaskData) -> None:
    method = PASS().fit(digits, steps=1, batch_size=8, device="cpu")
    groups = method.evaluate_fully(digits).groups
    assert set(groups) == set(digits.classes)


def test_classes_that_there_are_not_and_too_many_are_refused(digits: TaskData) -> None:
    with pytest.raises(pinakes.UserError, match=r"without: .* has no class 'people'"):
        PASS(without="people").divide(digits, TrainingPlan())
    with pytest.raises(pinakes.UserError, match="without: all images"):
        PASS(without=",".join(digits.classes)).divide(digits, TrainingPlan())
