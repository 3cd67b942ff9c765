"""Verdicts on disk: one file a paper, written by `verify` and never by hand."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pinakes.engine.runs import write_whole
from pinakes.errors import UserError
from pinakes.lab import comparison
from pinakes.lab.claims import Claim
from pinakes.lab.trial import NotTestable, Trial
from pinakes.lab.verdict import judge

FAILED = "failed"
NOT_TESTABLE = "not testable here"
SEAL = "sha256"
CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class ClaimRecord:
    """A claim and what became of it.

    Args:
        name: Name of its function.
        text: The claim in words.
        where: Where the paper makes it.
        about: How it was put to the test.
        verdict: "holds", "undecided", "reversed", "not testable here" or "failed".
        note: Why it failed or cannot be tested, or what is to be known when reading the verdict; or empty.
        higher_is_better: Whether the claim is that ours is higher.
        margin: How much worse ours may be.
        effect: The mean paired difference, positive in the direction claimed.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
        trial: Every seed's figures, or None where there are none.
        seconds: How long all seeds took together.
    """

    name: str
    text: str
    where: str
    about: str
    verdict: str
    note: str = ""
    higher_is_better: bool = True
    margin: float = 0.0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    trial: Trial | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, claim: Claim, outcome: Trial | NotTestable | str, seconds: float = 0.0) -> "ClaimRecord":
        """Judges a claim.

        Args:
            claim: The claim.
            outcome: Its figures, or why there are none; a text says how it failed.
            seconds: How long it took.
        """
        stated: dict[str, Any] = {
            name: getattr(claim, name)
            for name in ("name", "text", "where", "about", "higher_is_better", "margin")
        }
        if isinstance(outcome, str):
            return cls(**stated, verdict=FAILED, note=outcome, seconds=seconds)
        if isinstance(outcome, NotTestable):
            return cls(**stated, verdict=NOT_TESTABLE, note=outcome.reason)
        found = judge(outcome.pairs, higher_is_better=claim.higher_is_better, margin=claim.margin)
        return cls(
            **stated,
            verdict=found.word,
            note=found.note,
            effect=found.effect,
            low=found.low,
            high=found.high,
            trial=outcome,
            seconds=seconds,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ClaimRecord":
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "trial": values["trial"] and Trial.from_json(values["trial"])})


@dataclass(frozen=True)
class Record:
    """The verdicts on a paper's claims.

    Args:
        slug: The paper.
        title: Its title.
        link: Where it is.
        claims: Its claims.
        seeds: How many seeds were asked for.
        data: What stood in for the data of the claims, or None.
        quick: Whether training was cut short, so that the verdicts mean nothing.
        code: A hash of the code that they depend on.
        versions: What ran, by name.
        machine: What it ran on, by kind.
        date: When.
        seconds: How long it took.
        confirmed: When the first seed last gave the same figures again, with other code; or empty.
    """

    slug: str
    title: str
    link: str
    claims: tuple[ClaimRecord, ...]
    seeds: int
    data: str | None = None
    quick: bool = False
    code: str = ""
    versions: Mapping[str, str] = field(default_factory=comparison.versions)
    machine: Mapping[str, str | int] = field(default_factory=lambda: machine_kind())
    date: str = field(default_factory=comparison.now)
    seconds: float = 0.0
    confirmed: str = ""

    @property
    def failed(self) -> bool:
        """Whether a claim failed."""
        return any(claim.verdict == FAILED for claim in self.claims)

    @property
    def specs(self) -> list[str]:
        """The data on which its claims were put to the test."""
        return sorted(
            {claim.trial.data for claim in self.claims if claim.trial is not None and claim.trial.data}
        )

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values, with a hash that seals them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        if not self.confirmed:
            del values["confirmed"]
        return values | {SEAL: _seal(values)}

    def save(self, folder: Path) -> Path:
        """Writes the record to `SLUG.json` in a folder, and returns the file.

        Raises:
            UserError: If it cannot be written.
        """
        path = folder / f"{self.slug}.json"
        write_whole(path, (json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: Path) -> "Record":
        """Reads a record.

        Raises:
            UserError: If there is none, it is damaged, or it was changed since `verify` wrote it.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file; pinakes verify {path.stem} writes it")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            seal = values.pop(SEAL)
            if seal != _seal(values):
                raise UserError(
                    f"{path}: was changed since it was written (its hash does not match); remove it, and run "
                    f"pinakes verify {path.stem}"
                )
            claims = tuple(ClaimRecord.from_json(claim) for claim in values["claims"])
            return cls(**{**values, "claims": claims})
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: is damaged ({error}); remove it, and run pinakes verify {path.stem}"
            ) from error


def read_records(folder: Path) -> list[Record]:
    """All records in a folder, by slug.

    Raises:
        UserError: As `Record.load`; names the file.
    """
    return [Record.load(path) for path in sorted(folder.glob("*.json"))]


def machine_kind() -> dict[str, str | int]:
    """What kind of machine this is: system, cores, processor and GPU, without its name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "cpu": _processor(),
        "cuda": torch.version.cuda or "none",
        "gpu": gpu,
    }


def _processor() -> str:
    if CPU_FACTS.is_file():
        for line in CPU_FACTS.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "unknown"


def _seal(values: Mapping[str, Any]) -> str:
    text = json.dumps({**values, "pinakes": "verdicts"}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
