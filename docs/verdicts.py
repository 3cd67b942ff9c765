"""The verdicts as the site shows them: words, figures, and every seed as a point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup

from docs.papers import StatedClaim
from pinakes.catalogue import Paper
from pinakes.lab import notation
from pinakes.lab.dependencies import code_hash
from pinakes.lab.record import ClaimRecord, Record, read_records
from pinakes.report.chart import Axis

NOT_MEASURED = "not measured yet"
ORDER = ("reversed", "undecided", "holds", "failed", "not testable here", NOT_MEASURED)
MEANING = {
    "holds": "the 95 % interval of the paired difference lies on the claimed side",
    "undecided": "the interval reaches across: these seeds do not tell",
    "reversed": "the interval lies on the other side",
    "failed": "the run ended with an error, which is shown",
    "not testable here": "it needs more than a small machine has; the reason is given",
    NOT_MEASURED: "the claim is written down, and nobody has run it for this version yet",
}
WIDTH, MARGIN = 440, 16
OURS, BASELINE, AXIS, DIFFERENCE, SECOND_AXIS, HEIGHT = 52, 98, 126, 206, 234, 256


@dataclass(frozen=True)
class ClaimView:
    """A claim with what became of it.

    Args:
        paper: The paper.
        stated: The claim as its file states it.
        verdict: One of `ORDER`.
        measured: What `verify` wrote, or None.
        record: The record it stands in, or None.
        stale: Whether the code has changed since.
    """

    paper: Paper
    stated: StatedClaim
    verdict: str = NOT_MEASURED
    measured: ClaimRecord | None = None
    record: Record | None = None
    stale: bool = False

    @property
    def key(self) -> str:
        """The verdict as the name of a style."""
        return self.verdict.split()[0] if self.verdict != NOT_MEASURED else "open"

    @property
    def ours(self) -> str:
        """Our mean."""
        return self._mean("ours")

    @property
    def baseline(self) -> str:
        """The baseline's mean."""
        return self._mean("baseline")

    @property
    def effect(self) -> str:
        """The mean paired difference in the direction claimed, with its interval."""
        found = self.measured
        if found is None or found.effect is None:
            return notation.MISSING
        mean = f"{'+' if found.effect > 0 else ''}{_signed(found.effect)}"
        if found.low is None or found.high is None:
            return mean
        return f"{mean} [{_signed(found.low)}, {_signed(found.high)}]"

    def _mean(self, side: str) -> str:
        if self.measured is None or self.measured.trial is None:
            return notation.MISSING
        values = [getattr(pair, side) for pair in self.measured.trial.pairs]
        return notation.number(sum(values) / len(values))


def read_verdicts(folder: Path) -> dict[str, Record]:
    """All records by slug.

    Raises:
        UserError: If one was edited by hand; names the file.
    """
    return {record.slug: record for record in read_records(folder)} if folder.is_dir() else {}


def views(paper: Paper, stated: Iterable[StatedClaim], record: Record | None) -> list[ClaimView]:
    """Every claim of a paper, measured or not.

    Args:
        paper: The paper.
        stated: Its claims.
        record: What `verify` wrote for it, or None.
    """
    found = [ClaimView(paper, each) for each in stated]
    if record is None:
        return found
    stale = record.code != code_hash(paper, record.specs)
    by_name = {claim.name: claim for claim in record.claims}
    return [
        replace(view, verdict=claim.verdict, measured=claim, record=record, stale=stale)
        if (claim := by_name.get(view.stated.name)) is not None and claim.text == view.stated.text
        else view
        for view in found
    ]


def chart(claim: ClaimRecord, slug: str) -> Markup:
    """Both sides with a point for every seed, and the paired differences with their interval, as inline SVG.

    Args:
        claim: A claim with figures.
        slug: What our side is called.
    """
    trial = claim.trial
    if trial is None or claim.effect is None:
        return Markup()
    sign = 1 if claim.higher_is_better else -1
    values = [value for pair in trial.pairs for value in (pair.ours, pair.baseline)]
    both = _axis(values)
    differences = [sign * pair.difference for pair in trial.pairs]
    ends = [end for end in (claim.low, claim.high) if end is not None]
    second = _axis([*differences, *ends, 0.0, -claim.margin])
    better = "higher" if claim.higher_is_better else "lower"
    unit = f", {trial.unit}" if trial.unit else ""
    parts = [
        _text(0, 14, f"{trial.metric}{unit}; the claim is that ours is {better}", "name"),
        *(_pair_line(pair.ours, pair.baseline, both) for pair in trial.pairs),
        *_side(slug, "ours", [(pair.seed, pair.ours) for pair in trial.pairs], both, OURS),
        *_side("baseline", "baseline", [(pair.seed, pair.baseline) for pair in trial.pairs], both, BASELINE),
        *_ticks(both, AXIS),
        _text(0, DIFFERENCE - 32, "difference seed by seed, to the right as claimed", "name"),
        _line(second.place(-claim.margin), DIFFERENCE - 20, SECOND_AXIS - 12, "zero"),
        *([_bar(second.place(ends[0]), second.place(ends[1]))] if len(ends) == 2 else []),
        _line(second.place(claim.effect), DIFFERENCE - 11, DIFFERENCE + 11, "mean"),
        *(
            _dot(second.place(value), DIFFERENCE, "ours", f"seed {pair.seed}: {notation.number(value)}")
            for pair, value in zip(trial.pairs, differences, strict=True)
        ),
        *_ticks(second, SECOND_AXIS),
    ]
    label = f"{slug} against its baseline, {len(trial.pairs)} seeds, {trial.metric}; verdict: {claim.verdict}"
    return Markup('<svg class="seeds" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, label, Markup("").join(parts)
    )


def _signed(value: float) -> str:
    """A value in figures, without a sign where they are all zero."""
    written = notation.number(value)
    return written if any(figure in "123456789" for figure in written) else written.lstrip("−")


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    room = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    return Axis(low - room, high + room, MARGIN, WIDTH - MARGIN)


def _side(name: str, style: str, seeds: list[tuple[int, float]], axis: Axis, y: int) -> list[Markup]:
    mean = sum(value for _, value in seeds) / len(seeds)
    return [
        _text(0, y - 14, name, "side"),
        _line(axis.place(mean), y - 10, y + 10, "mean"),
        *(
            _dot(axis.place(value), y, style, f"seed {seed}: {notation.number(value)}")
            for seed, value in seeds
        ),
    ]


def _ticks(axis: Axis, y: int) -> list[Markup]:
    kept = axis.ticks()
    kept = kept[:: 1 + len(kept) // 6]
    line = Markup('<path class="axis" d="M{} {}H{}"/>').format(0, y - 12, WIDTH)
    return [
        line,
        *(_text(axis.place(value), y + 6, f"{value:.4g}".replace("-", "−"), "tick") for value in kept),
    ]


def _text(x: float, y: float, words: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def _line(x: float, top: float, bottom: float, style: str) -> Markup:
    return Markup('<path class="{}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(style, x, top, bottom)


def _pair_line(ours: float, baseline: float, axis: Axis) -> Markup:
    return Markup('<path class="pair" d="M{:.1f} {}L{:.1f} {}"/>').format(
        axis.place(ours), OURS, axis.place(baseline), BASELINE
    )


def _bar(low: float, high: float) -> Markup:
    return Markup('<rect class="interval" x="{:.1f}" y="{}" width="{:.1f}" height="16" rx="3"/>').format(
        low, DIFFERENCE - 8, max(2.0, high - low)
    )


def _dot(x: float, y: float, style: str, words: str) -> Markup:
    return Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="5"><title>{}</title></circle>').format(
        style, x, y, words
    )
