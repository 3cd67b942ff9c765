import contextlib
import signal
from typing import Any

import pytest

from pinakes.lab.stopping import ENDED, remembered_stops


def test_a_request_to_end_leaves_where_it_falls_and_restores_what_was_there() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, remembered_stops():
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == ENDED == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_that_was_lost_is_remembered() -> None:
    with remembered_stops() as check:
        check()
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit):
            check()


def test_what_awaited_the_request_before_is_told() -> None:
    heard: list[Any] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with pytest.raises(SystemExit), remembered_stops():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_handler_that_came_over_ours_ends_in_its_own_way() -> None:
    with remembered_stops() as check:
        ours: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit):
            check()
