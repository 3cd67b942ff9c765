"""Memory of `compare` against the number of cells: it must not grow.

    python benchmarks/compare_memory.py [--cells N]

Runs one method with many seeds in one process and notes the resident memory each time a cell is finished. The first
cells load libraries and fill caches, so growth is the slope of a straight line through the second half. Writes
results/bench/compare_memory.json.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pinakes
from benchmarks.harness import Finding
from pinakes.lab.comparison import machine, now, versions

RESULT = Path(__file__).parents[1] / "results" / "bench" / "compare_memory.json"
DATA = "textures?size=64&n=64"
METHOD = "patchcore"
POLL_SECONDS = 0.02
PAGE = 4096


def resident_megabytes() -> float:
    """The memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def watch(cells: Path, found: list[float], done: threading.Event) -> None:
    """Notes the resident memory whenever another cell is finished."""
    while not done.is_set():
        if len(list(cells.glob("*/*/cell.json"))) > len(found):
            found.append(resident_megabytes())
        time.sleep(POLL_SECONDS)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures and writes the result.

    Args:
        arguments: Words of the command line; by default those that were given.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=12, help="how many cells to run")
    count = parser.parse_args(arguments).cells
    found: list[float] = []
    done = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        watcher = threading.Thread(target=watch, args=(Path(folder) / "cells", found, done))
        watcher.start()
        try:
            pinakes.compare("anomaly", DATA, METHOD, seeds=count, out=folder, device="cpu")
        finally:
            done.set()
            watcher.join()
    half = found[len(found) // 2 :]
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0])
    result = {
        "what": "resident memory of compare after each cell, in megabytes",
        "data": DATA,
        "method": METHOD,
        "cells": count,
        "megabytes": [round(value, 1) for value in found],
        "megabytes_a_cell": round(slope, 3),
        "share_a_cell": round(slope / half[0], 5),
        "versions": versions(),
        "machine": machine("CPU"),
        "date": now(),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return result


def bench() -> list[Finding]:
    """Measures, and returns the growth."""
    found = main([])
    what = f"memory of compare over {found['cells']} cells"
    return [Finding("compare_memory", what, figure=f"{found['megabytes_a_cell']:+.2f} MB a cell")]


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
