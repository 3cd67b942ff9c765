"""Courses of the learning rate that methods share."""

import math


def rise_and_fall(done: float, warm_up: float = 0.1) -> float:
    """The learning rate as a share of its full height: it rises in a line, then falls to 0 as half a cosine.

    Args:
        done: The share of training that is done, 0 to 1.
        warm_up: The share of training in which it rises, 0 to below 1.

    Example:
        >>> [round(rise_and_fall(done), 3) for done in (0.05, 0.1, 0.55, 1.0)]
        [0.505, 1.0, 0.5, 0.0]
    """
    if done < warm_up:
        # never quite 0, so that the first step counts
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warm_up) / (1 - warm_up))))
