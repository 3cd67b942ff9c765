"""`digits`: 1797 handwritten digits of 8 x 8 pixels, as they come with scikit-learn."""

import functools
from typing import Literal

import numpy as np

from pinakes.data.arrays import from_array
from pinakes.data.base import TaskData
from pinakes.data.sources import Request

CLASSES = tuple("0123456789")


@functools.cache
def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8) in [0, 1] and digits (1797,)."""
    from sklearn.datasets import load_digits  # takes a second to import

    found = load_digits()
    return found.images / 16, found.target


def load(
    request: Request,
    *,
    n: int = 0,
    normal: Literal["", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"] = "",
) -> TaskData:
    """Handwritten digits, 60 % to train, 20 % to validate and 20 % to test, enlarged to 32 x 32 by default.

    Args:
        request: What is asked for.
        n: Number of training images to keep, and at most as many to validate and test; 0 for all.
        normal: The digit that is normal, for anomaly detection; the others are anomalous.

    Raises:
        UserError: If `n` is smaller than the number of classes.
    """
    return from_array(request, pixels, "digits", CLASSES, size=(32, 32), n=n, normal=normal)
