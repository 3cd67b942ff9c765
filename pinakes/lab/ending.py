"""A request to end (SIGTERM), as batch systems send it to every process of a job, stops work of many parts."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDED = 128 + signal.SIGTERM
"""Exit code of a process that was asked to end, by the custom of shells."""


@contextmanager
def remembered_end() -> Iterator[Callable[[], None]]:
    """Lets SIGTERM raise SystemExit where it falls, and yields a check that raises it again if it was lost.

    It is lost where the processes that load images are asked to end as well: what is raised for their death takes its
    place, and reads as a failure of the part in progress.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield lambda: None
        return
    asked = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        asked.set()
        if callable(before):
            before(number, frame)
        raise SystemExit(ENDED)

    def check() -> None:
        if asked.is_set():
            raise SystemExit(ENDED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)
