"""Random numbers that follow from a seed and leave the caller's generators as they were."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seeds torch (all devices), NumPy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries below us still draw from the global generator
    random.seed(seed)


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Runs its block from `seed` and puts every global generator back afterwards.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated(7):
        ...     a = torch.rand(1)
        >>> with isolated(7):
        ...     b = torch.rand(1)
        >>> bool(a == b), bool((torch.get_rng_state() == before).all())
        (True, True)
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 - as above
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            seed_everything(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002 - as above
            random.setstate(python_state)


def mix(*parts: int) -> int:
    """One 32-bit seed from several whole numbers, such as (seed, epoch, step).

    Example:
        >>> mix(0, 1, 2) == mix(0, 1, 2), mix(0, 1, 2) == mix(0, 2, 1)
        (True, False)
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "little")
