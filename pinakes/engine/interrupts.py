"""Ctrl-C: asked for between the steps of a training, and never lost between the parts of long work."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Ctrl-C was pressed; the step in progress is done and a checkpoint is written."""


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turns Ctrl-C into a question to be asked between steps; a second Ctrl-C raises `Interrupted` at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise Interrupted
        pressed.set()

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def remembered_interrupts() -> Iterator[Callable[[], None]]:
    """Lets Ctrl-C raise KeyboardInterrupt where it falls, and yields a check that raises it again if it was lost.

    Python drops an exception that falls into a callback, such as those around the start of a worker process. Long
    work that goes through many parts calls the check after each.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    pressed = threading.Event()

    def press(number: int, frame: FrameType | None) -> None:
        pressed.set()
        before(number, frame)

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
