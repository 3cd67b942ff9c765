"""Which images a method is most wrong and most right about: by its score, or by the class that it names."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pinakes.lab import notation
from pinakes.tasks.base import Task

EACH = 4
CONFIDENCE = "confidence"
"""The field of a prediction that says how sure it is of the class that it names."""


@dataclass(frozen=True)
class Remark:
    """One image and what is said under it.

    Args:
        index: The image's place in the test set.
        words: What the method made of it.
    """

    index: int
    words: str


@dataclass(frozen=True)
class Sides:
    """The images that one method is most wrong and most right about, the extremes first."""

    wrong: list[Remark]
    right: list[Remark]


@dataclass(frozen=True)
class Manner:
    """How a task's methods can be wrong.

    Args:
        note: What "most wrong" means.
        none_wrong: What is said where no image is wrong.
        beside: Whether an image is shown beside the method's picture of it, because that does not show it.
    """

    note: str
    none_wrong: str
    beside: bool


BY_RANK = Manner(
    "An image is as wrong as the share of the other class, among all test images, that its score does not set it apart "
    "from.",
    "None: every one of these images is on its side of all images of the other class.",
    beside=True,
)
BY_CLASS = Manner(
    "The most wrong are those named wrongly with the highest confidence, the most right those named rightly with the "
    "highest.",
    "None: every one of these images is named rightly.",
    beside=False,
)


@dataclass(frozen=True)
class Verdict:
    """How a method ranks one image among those of the other class.

    Args:
        index: The image's place in the test set.
        positive: Whether its label is 1.
        score: The method's score for it.
        wrong: The share of images of the other class on the wrong side of it: for a positive one those that score
            as high or higher, for a negative one those that score as low or lower.
    """

    index: int
    positive: bool
    score: float
    wrong: float


def manner_of(task: Task) -> Manner | None:
    """How methods of a task can be wrong about one image, or None where that cannot be told."""
    if task.ranking is not None:
        return BY_RANK
    return BY_CLASS if task.confusion is not None else None


def sides(
    task: Task,
    truth: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Sequence[float | None]],
    shown: Sequence[int],
    classes: Sequence[str],
) -> Sides | None:
    """The shown images that a method is most wrong and most right about.

    Args:
        task: Says by which of its numbers.
        truth: What is known of each test image.
        scores: The numbers that the method gave each.
        shown: The images to choose from.
        classes: Names of the classes.

    Returns:
        None where the numbers or the truth do not tell.
    """
    if task.ranking is not None:
        return _by_rank(judge(truth, scores, shown, task.ranking), classes)
    return _by_class(truth, scores, shown, task.confusion, classes)


def judge(
    truth: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Sequence[float | None]],
    shown: Sequence[int],
    ranking: tuple[str, str] | None,
) -> list[Verdict]:
    """Ranks the shown images by one method's scores of all test images, the most wrong first.

    Args:
        truth: What is known of each test image.
        scores: The numbers that the method gave each.
        shown: The images to rank.
        ranking: The number that ranks and the truth, 0 or 1, by which it should; None for tasks without.

    Returns:
        One verdict an image; none where the task ranks nothing, or not all truth is 0 or 1.
    """
    score, label = ranking or ("", "")
    if score not in scores or label not in truth:
        return []
    values = np.array([math.nan if value is None else value for value in scores[score]], float)
    labels = np.array(truth[label])
    if len(values) != len(labels) or not np.isfinite(values).all() or set(labels.tolist()) != {0, 1}:
        return []
    positives, negatives = values[labels == 1], values[labels == 0]
    middle = float(np.median(values))
    verdicts = [
        Verdict(
            index,
            bool(labels[index]),
            float(values[index]),
            float(
                (negatives >= values[index]).mean() if labels[index] else (positives <= values[index]).mean()
            ),
        )
        for index in shown
    ]
    return sorted(verdicts, key=lambda verdict: (-verdict.wrong, abs(verdict.score - middle)))


def _by_rank(verdicts: Sequence[Verdict], classes: Sequence[str]) -> Sides | None:
    if not verdicts:
        return None
    wrong = [verdict for verdict in verdicts[:EACH] if verdict.wrong > 0]
    right = [verdict for verdict in verdicts[::-1][:EACH] if verdict not in wrong]

    def remark(verdict: Verdict, missed: bool) -> Remark:
        other = classes[not verdict.positive] if len(classes) == 2 else "other"
        share = verdict.wrong if missed else 1 - verdict.wrong
        side = "below" if verdict.positive == missed else "above"
        score = notation.number(verdict.score)
        return Remark(verdict.index, f"{score}, {side} {100 * share:.0f}\u00a0% of the {other} ones")

    return Sides([remark(each, True) for each in wrong], [remark(each, False) for each in right])


def _by_class(
    truth: Mapping[str, Sequence[Any]],
    scores: Mapping[str, Sequence[float | None]],
    shown: Sequence[int],
    confusion: tuple[str, str] | None,
    classes: Sequence[str],
) -> Sides | None:
    named, true = confusion or ("", "")
    if not {named, CONFIDENCE} <= set(scores) or true not in truth or len(scores[named]) != len(truth[true]):
        return None
    known = [
        (index, int(answer), int(truth[true][index]), float(confidence))
        for index in shown
        if (answer := scores[named][index]) is not None
        and (confidence := scores[CONFIDENCE][index]) is not None
    ]
    surest = sorted(known, key=lambda each: -each[3])

    def name(label: int) -> str:
        return classes[label] if 0 <= label < len(classes) else str(label)

    return Sides(
        wrong=[
            Remark(index, f"taken for {name(answer)}, confidence {notation.number(confidence)}")
            for index, answer, label, confidence in surest
            if answer != label >= 0
        ][:EACH],
        right=[
            Remark(index, f"confidence {notation.number(confidence)}")
            for index, answer, label, confidence in surest
            if answer == label
        ][:EACH],
    )
