"""Times ours and a peer in turn, after checking that both compute the same thing, and keeps the ratio.

A benchmark is a module of this folder with a function `bench() -> list[Finding]`.
"""

import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pinakes.lab.comparison import now, versions
from pinakes.lab.memory import peak_of
from pinakes.lab.record import machine_kind

RESULTS = Path(__file__).parents[1] / "results" / "bench"
ROUNDS = 7


class Clocks(NamedTuple):
    """Seconds on the wall, and seconds of processors that this process and the ones it ran used."""

    wall: float
    processor: float


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        name: The benchmark.
        what: What was measured.
        against: What ours is divided by.
        ratio: Ours divided by the peer's: below 1, ours needs less. None where there is no peer.
        low: Lower quartile of the ratio.
        high: Upper quartile.
        figure: The absolute figure, with its unit.
        skipped: Why it was not measured, or empty.
    """

    name: str
    what: str
    against: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    figure: str = ""
    skipped: str = ""


def race(
    name: str,
    what: str,
    *,
    ours: Callable[[], Any],
    peer: Callable[[], Any],
    against: str,
    check: Callable[[Any, Any], None],
    rounds: int = ROUNDS,
    clock: Callable[[Callable[[], Any]], Clocks] | None = None,
) -> Finding:
    """Checks that both sides compute the same, then times them in turn: ours, peer, ours, peer, ...

    The ratio is that of processor time, which leaves out what else the machine does.

    Args:
        name: The benchmark.
        what: What is computed.
        ours: Our side.
        peer: The other side.
        against: What the other side is.
        check: Takes both results and raises AssertionError if they do not mean the same.
        rounds: Pairs of runs after the one that is checked.
        clock: How long a call takes; by default on this machine's processors.
    """
    clock = clock or clocked
    check(ours(), peer())
    times: dict[str, list[Clocks]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        times["ours"].append(clock(ours))
        times["peer"].append(clock(peer))
    return compared(name, what, against, times["ours"], times["peer"])


def clocked(run: Callable[[], Any]) -> Clocks:
    """How long a call takes."""
    wall, before = time.perf_counter(), os.times()
    run()
    after = os.times()
    return Clocks(time.perf_counter() - wall, sum(after[:4]) - sum(before[:4]))


def compared(name: str, what: str, against: str, ours: Sequence[Clocks], peer: Sequence[Clocks]) -> Finding:
    """The median ratio of processor time with its quartiles, and ours in milliseconds."""
    ratios = [a.processor / max(b.processor, 1e-3) for a, b in zip(ours, peer, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    middle = 1000 * statistics.median(each.processor for each in ours)
    return Finding(
        name,
        what,
        against,
        ratio=round(statistics.median(ratios), 4),
        low=round(low, 4),
        high=round(high, 4),
        figure=f"{middle:.4g} ms",
    )


def memory_ratio(
    name: str,
    what: str,
    *,
    ours: Callable[..., Any],
    peer: Callable[..., Any],
    against: str,
    arguments: tuple[Any, ...] = (),
    rounds: int = 3,
) -> Finding:
    """The ratio of the peak memory of both sides, each in fresh processes of its own, in turn.

    Args:
        name: The benchmark.
        what: What is computed.
        ours: From `arguments` to a call without arguments that is measured; a function of a module.
        peer: The same for the other side.
        against: What the other side is.
        arguments: What both get.
        rounds: Pairs of processes.
    """
    peaks: dict[str, list[int]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side, prepare in (("ours", ours), ("peer", peer)):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                peaks[side].append(pool.submit(_peak, prepare, arguments).result())
    ratios = sorted(a / max(b, 1) for a, b in zip(peaks["ours"], peaks["peer"], strict=True))
    return Finding(
        name,
        what,
        against,
        ratio=round(statistics.median(ratios), 4),
        low=round(ratios[0], 4),
        high=round(ratios[-1], 4),
        figure=f"{statistics.median(peaks['ours']) / 1e6:.4g} MB",
    )


def _peak(prepare: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> int:
    return peak_of(prepare(*arguments))[0]


def missing(package: str) -> str:
    """Why a peer cannot take part, or an empty string if it is installed."""
    if importlib.util.find_spec(package) is not None:
        return ""
    return f"{package} is not installed; pip install 'pinakes[peers]'"


def save(name: str, findings: Sequence[Finding], **more: Any) -> None:
    """Writes `results/bench/NAME.json`.

    Args:
        name: The benchmark.
        findings: What it found, skipped peers included.
        **more: What else belongs to it, as JSON values.
    """
    written: Mapping[str, Any] = {
        "findings": [asdict(finding) for finding in findings],
        **more,
        "versions": versions(),
        "machine": machine_kind(),
        "date": now(),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")
