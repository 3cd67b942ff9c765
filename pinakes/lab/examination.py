"""A paper whose claims are being put to the test: what is to be run, what is done, and the record in the end."""

import importlib
from collections.abc import Iterator
from pathlib import Path

from pinakes.catalogue import Paper
from pinakes.lab.claims import Claim, claims_of
from pinakes.lab.dependencies import code_hash
from pinakes.lab.record import FAILED, ClaimRecord, Record
from pinakes.lab.seed_run import SeedResult, SeedRun, forget, in_one_line, keep, recall
from pinakes.lab.trial import NotTestable, joined


class Examination:
    """The claims of one paper, seed by seed.

    Args:
        paper: The paper.
        seeds: How many seeds.
        data: What stands in for the data of the claims, or None.
        quick: Whether training is cut short.
        device: "auto", "cpu", "cuda" or "cuda:1".
    """

    def __init__(self, paper: Paper, seeds: int, *, data: str | None, quick: bool, device: str) -> None:
        self.paper, self.seeds, self.data, self.quick = paper, seeds, data, quick
        self.code = code_hash(paper)
        self.unreadable = ""
        self.claims: list[Claim] = []
        try:
            importlib.import_module(paper.module)
        except Exception as error:
            self.unreadable = in_one_line(error)
        else:
            self.claims = claims_of(paper)
        self.works = {
            claim.name: [SeedRun(paper.slug, claim.name, seed, data, quick, device) for seed in range(seeds)]
            for claim in self.claims
        }
        self.results: dict[SeedRun, SeedResult] = {}
        for work in self.left():
            kept = recall(work)
            if kept is not None:
                self.results[work] = kept

    def left(self) -> list[SeedRun]:
        """What is still to be run."""
        return [work for claim in self.claims if not self.failed(claim) for work in self._left_of(claim)]

    def add(self, work: SeedRun, result: SeedResult) -> ClaimRecord | None:
        """Takes in a result; returns the verdict if it was the last of its claim."""
        if self.code == code_hash(self.paper):
            keep(work, result)
        self.results[work] = result
        claim = next(each for each in self.claims if each.name == work.claim)
        return self.judged(claim) if self.failed(claim) or not self._left_of(claim) else None

    def failed(self, claim: Claim) -> bool:
        """Whether a claim failed with a seed."""
        return any(result.failed for result in self._results_of(claim))

    def judged(self, claim: Claim) -> ClaimRecord:
        """The verdict on a claim whose seeds are done, or one of whose seeds failed."""
        results = list(self._results_of(claim))
        seconds = round(sum(result.seconds for result in results), 1)
        trials = []
        for result in results:
            if isinstance(result.outcome, str):
                return ClaimRecord.of(claim, result.outcome, seconds)
            if isinstance(result.outcome, NotTestable):
                return ClaimRecord.of(claim, result.outcome)
            trials.append(result.outcome)
        try:
            return ClaimRecord.of(claim, joined(trials), seconds)
        except ValueError as error:
            return ClaimRecord.of(claim, in_one_line(error), seconds)

    def close(self, folder: Path) -> Record:
        """Writes the record to a folder, and forgets the seeds of claims that are whole.

        A record whose code was changed while it ran gets no hash of it, so that it counts as stale.
        """
        claims = [self.judged(claim) for claim in self.claims]
        if self.unreadable:
            claims = [
                ClaimRecord("import", "The paper's module can be imported.", "", "", FAILED, self.unreadable)
            ]
        specs = {claim.trial.data for claim in claims if claim.trial is not None and claim.trial.data}
        record = Record(
            slug=self.paper.slug,
            title=self.paper.title,
            link=self.paper.link,
            claims=tuple(claims),
            seeds=self.seeds,
            data=self.data,
            quick=self.quick,
            code=code_hash(self.paper, specs) if self.code == code_hash(self.paper) else "",
            seconds=round(sum(claim.seconds for claim in claims), 1),
        )
        record.save(folder)
        for claim in self.claims:
            if not self.failed(claim):
                forget(self.works[claim.name][0])
        return record

    def _left_of(self, claim: Claim) -> list[SeedRun]:
        return [work for work in self.works[claim.name] if work not in self.results]

    def _results_of(self, claim: Claim) -> Iterator[SeedResult]:
        return (self.results[work] for work in self.works[claim.name] if work in self.results)
