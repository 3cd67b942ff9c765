"""Which images a method is most wrong and most right about, where it gives a score and the truth is yes or no."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

EACH = 4


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
