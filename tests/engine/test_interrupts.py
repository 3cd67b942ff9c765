"""Ctrl-C is never lost."""

import signal
import threading

import pytest

from pinakes.engine.interrupts import remembered_interrupts


class PressedWhileDying:
    """Its finaliser is interrupted, where Python drops exceptions."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_that_python_dropped_is_raised_by_the_next_check() -> None:
    with remembered_interrupts() as check:
        check()
        dying = PressedWhileDying()
        del dying
        with pytest.raises(KeyboardInterrupt):
            check()


def test_interrupt_is_raised_where_it_falls_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), remembered_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_elsewhere_than_in_the_main_thread_nothing_is_changed() -> None:
    seen = []

    def work() -> None:
        with remembered_interrupts() as check:
            check()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
