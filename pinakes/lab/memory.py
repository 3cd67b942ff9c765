"""The memory that a call needs at its peak."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORGET_PEAK = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


def peak_of(call: Callable[[], Any]) -> tuple[int, int]:
    """Makes a call and says how much memory it took; to be used in a process of its own.

    Where the system cannot forget an earlier peak, only what goes beyond that is seen.

    Returns:
        Bytes in RAM at the peak on top of what was there before, and bytes of the whole process at that peak.
    """
    if FORGET_PEAK.exists():
        FORGET_PEAK.write_text("5")
    before = _peak()
    call()
    peak = _peak()
    return peak - before, peak


def _peak() -> int:
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
