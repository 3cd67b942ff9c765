"""Verdicts as a table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from pinakes.lab import notation
from pinakes.lab.intervals import Estimate
from pinakes.lab.record import FAILED, NOT_TESTABLE, ClaimRecord, Record

COLOURS = {
    "holds": "green",
    "reversed": "red",
    "undecided": "yellow",
    FAILED: "bold red",
    NOT_TESTABLE: "dim",
}


def verdict_table(records: Sequence[Record]) -> Table:
    """One row a claim: the claim in words, both sides' means over the seeds, the difference and the verdict."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=False)
    for name in ("paper", "claim", "measured", "ours", "baseline", "difference", "seeds", "verdict"):
        table.add_column(
            name, justify="left" if name in ("paper", "claim", "measured", "verdict") else "right"
        )
    for record in records:
        for claim in record.claims:
            verdict = f"[{COLOURS[claim.verdict]}]{claim.verdict}[/]"
            table.add_row(record.slug, escape(claim.text), *_figures(claim), verdict)
    return table


def difference(claim: ClaimRecord) -> str:
    """The mean difference in the direction claimed, with its 95 % interval."""
    if claim.effect is None:
        return notation.MISSING
    if claim.low is None or claim.high is None:
        return notation.number(claim.effect)
    return f"{notation.number(claim.effect)} [{notation.number(claim.low)}, {notation.number(claim.high)}]"


def _figures(claim: ClaimRecord) -> tuple[str, ...]:
    if claim.trial is None:
        return ("", notation.MISSING, notation.MISSING, notation.MISSING, notation.MISSING)
    pairs = claim.trial.pairs
    return (
        escape(" ".join(filter(None, [claim.trial.metric, claim.trial.unit and f"({claim.trial.unit})"]))),
        notation.number(Estimate(tuple(pair.ours for pair in pairs)).mean),
        notation.number(Estimate(tuple(pair.baseline for pair in pairs)).mean),
        escape(difference(claim)),
        str(len(pairs)),
    )
