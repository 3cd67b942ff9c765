"""`verify`: puts the claims of papers to the test and publishes what comes out, whichever way it falls."""

from collections.abc import Sequence
from pathlib import Path

from pinakes.catalogue import Paper, papers, shelves
from pinakes.data import load_data
from pinakes.engine.plan import torch_device
from pinakes.errors import UserError, suggest
from pinakes.lab import notation
from pinakes.lab.confirming import confirm as confirmed
from pinakes.lab.dependencies import code_hash
from pinakes.lab.describing import data_name
from pinakes.lab.examination import Examination
from pinakes.lab.progress import WorkBar
from pinakes.lab.record import ClaimRecord, Record
from pinakes.lab.seed_run import run_all
from pinakes.lab.stopping import remembered_stops

RESULTS = Path("results/claims")
SEEDS = 5
QUICK_SEEDS = 2


def verify(
    which: str | Sequence[str],
    *,
    stale: bool = False,
    confirm: bool = False,
    seeds: int | None = None,
    jobs: int = 1,
    quick: bool = False,
    data: str | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = False,
) -> list[Record]:
    """Puts the claims of papers to the test and writes the verdicts, one file a paper.

    Every claim is run with several seeds, each on one thread. A seed that is done is kept until its claim is whole:
    after an interruption the same call goes on where it stopped. A claim that fails is recorded as failed and does
    not stop the others.

    Args:
        which: The slug of a paper or several, the name of a shelf, or "all".
        stale: Run only papers whose code changed since their verdicts were written, and those that failed.
        confirm: With `stale`: run the first seed of their claims only, and let a verdict stand whose figures come out
            the same to the last digit; where they do not, all seeds are run.
        seeds: How many seeds; 5 by default.
        jobs: How many seeds run at a time, each in a process of its own.
        quick: Two seeds and two steps of training: shows that the claims run. The verdicts mean nothing and are
            kept apart.
        data: A spec that stands in for the data of the claims: do they hold on your images? Kept apart as well.
        out: Folder of the verdicts; by default results/claims, runs/claims-DATA with `data`, and runs/claims-quick
            or runs/claims-DATA-quick with `quick`.
        device: "auto", "cpu", "cuda" or "cuda:1".
        progress: Whether to show what runs, on standard error.

    Returns:
        The records of all papers that were asked for and make claims.

    Raises:
        UserError: If a name, a number or the data cannot be used, no paper that was named makes a claim, or `stale`
            finds a file that was changed by hand; nothing has been run then.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as out:
        ...     records = verify("patchcore", seeds=1, quick=True, data="textures?size=32&n=8", out=out)
        >>> records[0].claims[0].verdict
        'undecided'
    """
    for name, value in (("seeds", seeds), ("jobs", jobs)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{name}: expected a whole number of 1 or more, got {value!r}")
    if confirm and (not stale or seeds or quick or data is not None):
        raise UserError("confirm: goes with stale, and with neither seeds, quick nor data")
    torch_device(device)
    chosen = _chosen(which)
    if data is not None:
        for task in sorted({paper.task for paper in chosen}):
            load_data(data, task=task)
    folder = verdicts_folder(data, quick) if out is None else Path(out)
    records: dict[str, Record] = {}
    for paper in chosen if stale else ():
        record = _up_to_date(paper, folder, seeds, data, quick)
        if record is not None:
            records[paper.slug] = record
    if confirm:
        with remembered_stops() as check_stop:
            old = [paper for paper in chosen if paper.slug not in records]
            records |= confirmed(old, folder, jobs=jobs, device=device, check_stop=check_stop)
    count = seeds or (QUICK_SEEDS if quick else SEEDS)
    examinations = {
        paper.slug: Examination(paper, count, data=data, quick=quick, device=device)
        for paper in chosen
        if paper.slug not in records
    }
    examinations = {slug: each for slug, each in examinations.items() if each.claims or each.unreadable}
    if not examinations and not records:
        names = ", ".join(paper.slug for paper in chosen)
        raise UserError(f"{names}: no claim is written down yet; add one to the paper's module with @claim")
    works = [work for each in examinations.values() for work in each.left()]
    with remembered_stops() as check_stop, WorkBar("verifying", len(works), shown=progress) as bar:
        for slug, each in examinations.items():
            if not each.left():
                records[slug] = each.close(folder)
        for work, result in run_all(works, jobs):
            if result.failed:
                check_stop()
            each = examinations[work.slug]
            verdict = each.add(work, result)
            left = sum(len(other.left()) for other in examinations.values())
            bar.say(_line(work.slug, verdict) if verdict else "", done=len(works) - left)
            if not each.left():
                records[work.slug] = each.close(folder)
            check_stop()
    return [records[paper.slug] for paper in chosen if paper.slug in records]


def _chosen(which: str | Sequence[str]) -> list[Paper]:
    everything = papers()
    if which == "all":
        return everything
    if isinstance(which, str) and which in shelves() and which not in {paper.slug for paper in everything}:
        return papers(shelf=which)
    slugs = [which] if isinstance(which, str) else list(dict.fromkeys(which))
    if not slugs:
        raise UserError("no paper is named; give slugs, a shelf, or all")
    by_slug = {paper.slug: paper for paper in everything}
    for slug in slugs:
        if slug not in by_slug:
            raise UserError(f"no method or shelf is called '{slug}'{suggest(slug, [*by_slug, *shelves()])}")
    return [by_slug[slug] for slug in slugs]


def verdicts_folder(data: str | None, quick: bool) -> Path:
    """Where verdicts go: results/claims, or a folder in runs if other data stands in or training is cut short."""
    if data is None and not quick:
        return RESULTS
    words = ["claims", *([data_name(data)] if data else []), *(["quick"] if quick else [])]
    return Path("runs", "-".join(words))


def _up_to_date(
    paper: Paper, folder: Path, seeds: int | None, data: str | None, quick: bool
) -> Record | None:
    """The record that was written of a paper, if a new one would say the same."""
    path = folder / f"{paper.slug}.json"
    if not path.exists():
        return None
    record = Record.load(path)
    same = (record.data, record.quick, seeds or record.seeds) == (data, quick, record.seeds)
    return record if same and not record.failed and record.code == code_hash(paper, record.specs) else None


def _line(slug: str, verdict: ClaimRecord) -> str:
    return f"{slug}: {verdict.text} {verdict.verdict} ({notation.seconds(verdict.seconds)})"
