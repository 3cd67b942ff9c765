"""Start-up of the command line against importing torch, in fresh processes."""

import subprocess
import sys
from collections.abc import Callable

from benchmarks.harness import Finding, race, save

NAME = "startup"
COMMANDS = {"pinakes --help": ["--help"], "pinakes list": ["list"]}


def bench() -> list[Finding]:
    """Times `pinakes --help` and `pinakes list`."""
    found = [
        race(
            NAME,
            words,
            ours=process("-m", "pinakes", *arguments),
            peer=process("-c", "import torch"),
            against="python -c 'import torch'",
            check=expect_output,
            rounds=5,
        )
        for words, arguments in COMMANDS.items()
    ]
    save(NAME, found)
    return found


def process(*arguments: str) -> Callable[[], str]:
    """A call that runs Python with these arguments and returns what it prints."""

    def run() -> str:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
        return done.stdout

    return run


def expect_output(ours: str, peer: str) -> None:
    """The command says something; importing torch says nothing."""
    assert "pinakes" in ours or "patchcore" in ours, ours
    assert peer == "", peer
