"""`faces`: 100 faces and 100 other pictures of 25 x 25 pixels, as they come with scikit-image."""

import functools
from typing import Literal

import numpy as np

from pinakes.data.arrays import from_array
from pinakes.data.base import TaskData
from pinakes.data.sources import Request

CLASSES = ("face", "other")


@functools.cache
def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Images (200, 25, 25) in [0, 1] and classes (200,), 0 for faces."""
    from skimage.data import lfw_subset

    return lfw_subset(), np.repeat([0, 1], 100)


def load(request: Request, *, n: int = 0, normal: Literal["", "face", "other"] = "") -> TaskData:
    """Faces, and pieces of the same photographs without one; 60/20/20 to train, validate and test.

    Args:
        request: What is asked for; 32 x 32 pixels by default.
        n: Number of training images to keep, and at most as many to validate and test; 0 for all.
        normal: The class that is normal, for anomaly detection.

    Raises:
        UserError: If `n` is smaller than the number of classes.
    """
    return from_array(request, pixels, "faces", CLASSES, size=(32, 32), n=n, normal=normal)
