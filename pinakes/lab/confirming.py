"""Verdicts whose code changed, confirmed: one seed of every claim is run again, and must give the same figures.

Code may change without a change of what it computes. A claim whose first seed gives, to the last digit, what it gave
before is taken to give the same with its other seeds; so its record stands, with the hash of the new code and the day
on which it was confirmed. Any other paper is to be verified anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pinakes.catalogue import Paper
from pinakes.lab import comparison
from pinakes.lab.claims import Claim, claims_of
from pinakes.lab.dependencies import code_hash
from pinakes.lab.record import ClaimRecord, Record
from pinakes.lab.seed_run import SeedResult, SeedRun, keep, recall, run_all
from pinakes.lab.trial import NotTestable, Trial


def confirm(
    papers: Sequence[Paper],
    folder: Path,
    *,
    jobs: int = 1,
    device: str = "auto",
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Record]:
    """Runs the first seed of every claim of papers whose records are of older code, and renews those that agree.

    Args:
        papers: The papers; those without a record are passed over.
        folder: Of the records, which are written anew.
        jobs: How many seeds run at a time.
        device: "auto", "cpu", "cuda" or "cuda:1".
        check_stop: Called after each seed, to raise what must end the work.

    Returns:
        The records that were confirmed, by slug.
    """
    waiting = {paper.slug: _Confirmation(paper, folder, device) for paper in papers}
    waiting = {slug: each for slug, each in waiting.items() if each.is_possible}
    confirmed: dict[str, Record] = {}
    works = [work for each in waiting.values() for work in each.works]
    kept = {work: found for work in works if (found := recall(work)) is not None}
    for work, result in kept.items():
        waiting[work.slug].results[work] = result
    for work, result in run_all([work for work in works if work not in kept], jobs):
        each = waiting[work.slug]
        if each.code == code_hash(each.paper):
            keep(work, result)
        each.results[work] = result
        check_stop()
        if len(each.results) == len(each.works) and each.agrees():
            confirmed[work.slug] = each.renew()
    for slug, each in waiting.items():
        if slug not in confirmed and len(each.results) == len(each.works) and each.agrees():
            confirmed[slug] = each.renew()
    return confirmed


class _Confirmation:
    """The claims of one paper, with what is on record of them."""

    def __init__(self, paper: Paper, folder: Path, device: str) -> None:
        self.paper, self.folder = paper, folder
        path = folder / f"{paper.slug}.json"
        self.record = Record.load(path) if path.exists() else None
        self.code = code_hash(paper)
        self.results: dict[SeedRun, SeedResult] = {}
        self.claims: list[Claim] = claims_of(paper) if self.record is not None else []
        self.works = [SeedRun(paper.slug, claim.name, 0, None, False, device) for claim in self.claims]

    @property
    def is_possible(self) -> bool:
        """Whether there is a whole record, of claims that are put to the test as they were."""
        record = self.record
        if record is None or record.failed or record.data is not None or record.quick:
            return False
        return [_terms(claim) for claim in self.claims] == [_terms(claim) for claim in record.claims]

    def agrees(self) -> bool:
        """Whether every claim gave with its first seed what is on record."""
        assert self.record is not None
        return all(
            _same(old, self.results[work].outcome)
            for old, work in zip(self.record.claims, self.works, strict=True)
        )

    def renew(self) -> Record:
        """Writes the record with the hash of the code as it is now."""
        assert self.record is not None
        claims = tuple(
            replace(old, text=claim.text, where=claim.where, about=claim.about)
            for old, claim in zip(self.record.claims, self.claims, strict=True)
        )
        record = replace(
            self.record,
            claims=claims,
            code=code_hash(self.paper, self.record.specs) if self.code == code_hash(self.paper) else "",
            confirmed=comparison.now(),
        )
        record.save(self.folder)
        return record


def _terms(claim: Claim | ClaimRecord) -> tuple[str, bool, float]:
    """What must not have changed of a claim."""
    return claim.name, claim.higher_is_better, claim.margin


def _same(old: ClaimRecord, outcome: Trial | NotTestable | str) -> bool:
    """Whether the figures of a seed are those on record, to the last digit, with the same data and budget."""
    if old.trial is None:
        return isinstance(outcome, NotTestable) and outcome.reason == old.note
    if not isinstance(outcome, Trial):
        return False
    on_record = [pair for pair in old.trial.pairs if pair.seed == outcome.pairs[0].seed]
    alike = replace(old.trial, pairs=()) == replace(outcome, pairs=())
    return alike and list(outcome.pairs) == on_record
