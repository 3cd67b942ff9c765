"""What stops work of many parts: Ctrl-C, and SIGTERM, which batch systems send to every process of a job."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pinakes.engine.interrupts import remembered_interrupts

ENDED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM ended, by the custom of shells."""


@contextmanager
def remembered_stops() -> Iterator[Callable[[], None]]:
    """Lets Ctrl-C raise KeyboardInterrupt and SIGTERM SystemExit where they fall, and yields a check that raises what
    was lost.

    It is lost where the processes that load images are stopped as well: what is raised for their death takes its
    place, and reads as a failure of the part in progress. Work that goes on when a part fails calls the check before
    it believes the failure.
    """
    with remembered_interrupts() as check_interrupt, _remembered_end() as check_end:

        def check() -> None:
            check_interrupt()
            check_end()

        yield check


@contextmanager
def _remembered_end() -> Iterator[Callable[[], None]]:
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield lambda: None
        return
    asked = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        asked.set()
        if callable(before):
            before(number, frame)
        # another handler over this one is Lightning's, which ends training after the step, with a checkpoint
        if signal.getsignal(signal.SIGTERM) is end:
            raise SystemExit(ENDED)

    def check() -> None:
        if asked.is_set():
            raise SystemExit(ENDED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield check
    finally:
        signal.signal(signal.SIGTERM, before)
