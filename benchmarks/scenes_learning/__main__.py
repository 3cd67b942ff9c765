"""Learns some labels, or all: `python -m benchmarks.scenes_learning [LABEL...]`."""

import argparse

from benchmarks.scenes_learning import __doc__ as about
from benchmarks.scenes_learning import main
from benchmarks.scenes_learning.jobs import JOBS

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scenes_learning", description=(about or "").splitlines()[0]
    )
    parser.add_argument("labels", nargs="*", metavar="LABEL", choices=[*JOBS, []], help="all by default")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and weights")
    arguments = parser.parse_args()
    main(arguments.labels, arguments.seed)
