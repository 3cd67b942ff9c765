"""`verify`: records, resumption, staleness, failures; on toys that take no time."""

import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pinakes import UserError
from pinakes.catalogue import Paper, find, papers
from pinakes.lab import seed_run
from pinakes.lab.record import Record, read_records
from pinakes.lab.seed_run import SeedResult, SeedRun, error_file, run_all
from pinakes.lab.verify import RESULTS, verify
from tests.lab.shelf_of_claims import claiming

__all__ = ["claiming"]

pytestmark = pytest.mark.usefixtures("claiming")


def figures(records: list[Record]) -> list[tuple[float, float]]:
    return [
        (pair.ours, pair.baseline)
        for record in records
        for claim in record.claims
        if claim.trial
        for pair in claim.trial.pairs
    ]


def fits(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_a_verdict_is_written_with_all_that_it_rests_on(claiming: Path) -> None:
    random_state, threads = torch.get_rng_state(), torch.get_num_threads()
    (record,) = verify("toy-brighter", seeds=3)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.get_num_threads() == threads
    values = json.loads((claiming / RESULTS / "toy-brighter.json").read_text())
    claim = values["claims"][0]
    assert claim["text"] == "Knowing the label beats denying it."
    assert claim["where"] == "nowhere"
    assert claim["verdict"] == "holds"
    assert claim["low"] > 0
    assert [pair["seed"] for pair in claim["trial"]["pairs"]] == [0, 1, 2]
    assert claim["trial"]["data"] == "textures?size=32&n=24"
    assert claim["trial"]["budget"] == {"kind": "steps", "amount": 0, "batch_size": 32}
    assert {"torch", "pinakes", "python"} <= set(values["versions"])
    assert {"cores", "cpu", "cuda"} <= set(values["machine"])
    assert values["date"]
    assert values["seconds"] > 0
    assert Record.load(claiming / RESULTS / "toy-brighter.json") == record
    assert read_records(claiming / RESULTS) == [record]


def test_a_second_run_gives_the_same_figures() -> None:
    assert figures(verify("toy-brighter", seeds=2)) == figures(verify("toy-brighter", seeds=2, out="again"))


def test_a_claim_that_cannot_be_tested_says_why() -> None:
    measured, untestable = verify("toy-costs", seeds=2)[0].claims
    assert (measured.verdict, measured.effect) == ("holds", 10.0)
    assert (untestable.verdict, untestable.note, untestable.trial) == (
        "not testable here",
        "needs a thousand GPUs",
        None,
    )


def test_a_failing_baseline_is_reported_and_stops_nothing_else() -> None:
    broken, fine = verify(["toy-failing", "toy-costs"], seeds=3)[0].claims
    assert (broken.verdict, broken.trial, broken.effect) == ("failed", None, None)
    assert "baseline failed with seed 1: RuntimeError: the wheel came off" in broken.note
    assert fine.verdict == "holds"
    assert 'raise RuntimeError("the wheel' in error_file("toy-failing", broken.name).read_text()
    assert [record.slug for record in read_records(RESULTS)] == ["toy-costs", "toy-failing"]


def test_a_paper_that_cannot_be_imported_is_a_failure_of_its_own() -> None:
    records = verify(["toy-absent", "toy-costs"], seeds=2)
    assert records[0].claims[0].verdict == "failed"
    assert "ModuleNotFoundError" in records[0].claims[0].note
    assert records[1].claims[0].verdict == "holds"


def test_a_whole_shelf_leaves_out_papers_without_claims() -> None:
    found = [record.slug for record in verify("claiming", seeds=1)]
    assert found == ["toy-brighter", "toy-costs", "toy-failing", "toy-absent"]
    with pytest.raises(UserError, match="toy-silent: no claim is written down yet"):
        verify("toy-silent")


def test_an_interrupted_run_goes_on_after_the_seeds_that_are_done(
    claiming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = claiming / "log"
    monkeypatch.setenv("TOY_LOG", str(log))
    monkeypatch.setenv("TOY_STOP", "Denial 1")
    with pytest.raises(KeyboardInterrupt):
        verify("toy-brighter", seeds=3)
    assert not (claiming / RESULTS).exists()
    log.unlink()
    monkeypatch.delenv("TOY_STOP")
    verify("toy-brighter", seeds=3)
    assert fits(log) == ["Method 1", "Denial 1", "Method 2", "Denial 2"]
    assert not list((claiming / "cache").rglob("seed-*.json"))


def test_a_request_to_end_is_not_taken_for_a_claim_that_failed(
    claiming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_with_its_workers(work: SeedRun) -> SeedResult:
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        return SeedResult("RuntimeError: a worker was killed")

    monkeypatch.setattr(seed_run, "run", killed_with_its_workers)
    with pytest.raises(SystemExit):
        verify("toy-brighter", seeds=1)
    assert not (claiming / RESULTS).exists()


def test_stale_runs_only_what_changed(claiming: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = claiming / "log"
    monkeypatch.setenv("TOY_LOG", str(log))
    first = verify("toy-brighter", seeds=2)
    log.unlink()
    assert verify("toy-brighter", stale=True) == first
    assert verify("toy-brighter", stale=True, seeds=2) == first
    assert fits(log) == []
    verify("toy-brighter", stale=True, seeds=3)
    assert len(fits(log)) == 6
    monkeypatch.setattr("pinakes.lab.verify.code_hash", lambda paper, specs: "other")
    verify("toy-brighter", stale=True)
    assert len(fits(log)) == 6 + 10


def test_a_confirmed_verdict_stands_with_the_new_code_after_one_seed(
    claiming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = claiming / "log"
    monkeypatch.setenv("TOY_LOG", str(log))
    (first,) = verify("toy-brighter", seeds=3)
    assert len(fits(log)) == 6
    monkeypatch.setattr("pinakes.lab.dependencies._digest", lambda path: "changed")
    (record,) = verify("toy-brighter", stale=True, confirm=True)
    assert len(fits(log)) == 6 + 2
    assert figures([record]) == figures([first])
    assert record.code != first.code
    assert record.confirmed
    assert (record.date, record.versions) == (first.date, first.versions)
    assert Record.load(claiming / RESULTS / "toy-brighter.json") == record
    assert verify("toy-brighter", stale=True) == [record]


def test_a_verdict_whose_first_seed_gives_other_figures_is_measured_anew(
    claiming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = verify("toy-brighter", seeds=2)
    claim = first.claims[0]
    assert claim.trial is not None
    pairs = (replace(claim.trial.pairs[0], ours=0.123), *claim.trial.pairs[1:])
    old = replace(first, claims=(replace(claim, trial=replace(claim.trial, pairs=pairs)),))
    old.save(claiming / RESULTS)
    monkeypatch.setattr("pinakes.lab.dependencies._digest", lambda path: "changed")
    (record,) = verify("toy-brighter", stale=True, confirm=True)
    assert not record.confirmed
    assert figures([record])[:2] == figures([first])
    assert len(figures([record])) == 5


@pytest.mark.parametrize("other", [{"stale": False}, {"seeds": 2}, {"quick": True}])
def test_confirming_is_for_stale_verdicts_as_they_are(other: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="confirm"):
        verify("toy-brighter", **{"stale": True, "confirm": True, **other})


def test_stale_runs_what_failed_again() -> None:
    first = verify(["toy-failing", "toy-costs"], seeds=2)
    again = verify(["toy-failing", "toy-costs"], seeds=2, stale=True)
    assert again[1] == first[1]
    assert again[0] is not first[0]
    assert again[0].claims[0].verdict == "failed"


def test_a_file_changed_by_hand_is_refused_by_name(claiming: Path) -> None:
    verify("toy-costs", seeds=2)
    path = claiming / RESULTS / "toy-costs.json"
    text = path.read_text()
    path.write_text(text.replace('"baseline": 20.0', '"baseline": 30.0'))
    for use in (lambda: Record.load(path), lambda: verify("toy-costs", stale=True)):
        with pytest.raises(UserError, match=r"toy-costs\.json: was changed since it was written"):
            use()
    path.write_text(text[:100])
    with pytest.raises(UserError, match=r"toy-costs\.json: is damaged"):
        Record.load(path)
    verify("toy-costs", seeds=2)
    assert Record.load(path).claims[0].verdict == "holds"


def test_other_data_stands_in_and_is_kept_apart(claiming: Path) -> None:
    (record,) = verify("toy-brighter", seeds=2, data="textures?size=32&n=16&material=grass")
    assert record.data == "textures?size=32&n=16&material=grass"
    assert record.claims[0].trial is not None
    assert record.claims[0].trial.data == record.data
    assert (claiming / "runs/claims-textures/toy-brighter.json").is_file()
    assert not (claiming / RESULTS).exists()
    measured = verify("toy-costs", seeds=2, data="textures?size=32&n=16")[0].claims[0]
    assert (measured.verdict, measured.trial) == ("not testable here", None)
    assert "measured without data" in measured.note


def test_quick_runs_are_kept_apart(claiming: Path) -> None:
    (record,) = verify("toy-brighter", quick=True)
    assert record.quick
    assert record.claims[0].trial is not None
    assert len(record.claims[0].trial.pairs) == 2
    assert (claiming / "runs/claims-quick/toy-brighter.json").is_file()


def test_wrong_use_is_said_before_anything_runs(claiming: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'toy-costs'"):
        verify("toy-cost")
    with pytest.raises(UserError, match="seeds: expected a whole number of 1 or more, got 0"):
        verify("toy-costs", seeds=0)
    with pytest.raises(UserError, match="no such file or folder"):
        verify("toy-costs", data="./nowhere")
    assert list(claiming.iterdir()) == []


def test_a_process_that_dies_takes_only_its_own_claim_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    good, deadly = SeedRun("toy-costs", "fewer_numbers", 0), SeedRun("toy-costs", "scales", 0)

    def in_processes(works: list[SeedRun], jobs: int) -> list[tuple[SeedRun, SeedResult | None]]:
        return (
            [(work, None) for work in works]
            if deadly in works
            else [(work, seed_run.run(work)) for work in works]
        )

    monkeypatch.setattr(seed_run, "_in_processes", in_processes)
    found = dict(run_all([deadly, good], jobs=2))
    assert not found[good].failed
    assert "ended without a result" in str(found[deadly].outcome)


@pytest.mark.slow
def test_several_jobs_give_the_same_figures() -> None:
    data = "textures?size=32&n=16"
    one = verify("patchcore", seeds=2, quick=True, data=data, out="one")
    two = verify("patchcore", seeds=2, quick=True, data=data, out="two", jobs=2)
    assert figures(one) == figures(two)


@pytest.mark.parametrize("paper", papers(), ids=[paper.slug for paper in papers()])
def test_every_paper_on_the_shelves_makes_a_claim(paper: Paper) -> None:
    from pinakes.lab.claims import claims_of

    assert claims_of(find(paper.slug))
