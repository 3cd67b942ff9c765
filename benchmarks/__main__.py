"""Runs benchmarks and prints their ratios.

python -m benchmarks [NAME...]
"""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.harness import Finding
from pinakes.errors import suggest

MACHINERY = ("harness", "__main__")


def main() -> int:
    """Runs the benchmarks that are named, or all, one after the other; one that fails does not stop the others."""
    folder = Path(__file__).parent
    known = [module.name for module in pkgutil.iter_modules([str(folder)]) if module.name not in MACHINERY]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed and memory.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(known)}; all by default")
    names = parser.parse_args().names or known
    for name in names:
        if name not in known:
            parser.error(f"no benchmark is called '{name}'{suggest(name, known)}")
    progress = Console(stderr=True)
    findings: list[Finding] = []
    failed = False
    for name in names:
        progress.print(f"{name} ...", highlight=False)
        try:
            findings += importlib.import_module(f"benchmarks.{name}").bench()
        except Exception as error:
            failed = True
            progress.print_exception()
            findings.append(Finding(name, "failed", skipped=f"{type(error).__name__}: {error}"))
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table(findings))
    return int(failed)


def table(findings: list[Finding]) -> Table:
    """One row a finding; a ratio below 1 means that ours needs less."""
    shown = Table(title="ours divided by the peer's: below 1, ours needs less", title_justify="left")
    for column in ("benchmark", "what", "against", "ratio", "quartiles", "ours"):
        shown.add_column(column, justify="right" if column in ("ratio", "quartiles", "ours") else "left")
    for finding in findings:
        ratio = "" if finding.ratio is None else f"{finding.ratio:.3f}"
        spread = "" if finding.low is None else f"{finding.low:.3f} to {finding.high:.3f}"
        figure = f"skipped: {finding.skipped}" if finding.skipped else finding.figure
        shown.add_row(*map(escape, (finding.name, finding.what, finding.against, ratio, spread, figure)))
    return shown


if __name__ == "__main__":
    sys.exit(main())
