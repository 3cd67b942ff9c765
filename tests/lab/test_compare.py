import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import pinakes
from pinakes.catalogue import find
from pinakes.lab.cells import Cell, CellResult, cell_key, read_cell
from pinakes.lab.leaderboard import Leaderboard
from pinakes.lab.pictures import choose
from tests.lab.shelf_of_toys import toys

__all__ = ["toys"]

pytestmark = pytest.mark.usefixtures("toys")
DATA = "textures?size=32&n=8"


def compared(out: Path, methods: str = "toy-contrast,toy-noise", **changes: Any) -> Leaderboard:
    return pinakes.compare("anomaly", DATA, methods, **{"seeds": 1, "out": out, "device": "cpu", **changes})


def fits(log: Path) -> list[str]:
    return log.read_text().split()


def test_every_cell_and_the_leaderboard_are_written(tmp_path: Path) -> None:
    random_state = torch.get_rng_state()
    board = compared(tmp_path, seeds=2)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert sorted(row.slug for row in board.rows) == ["toy-contrast", "toy-noise"]
    assert all(row.seeds == (0, 1) for row in board.rows)
    assert all(0 <= value <= 1 for row in board.rows for value in row.metric("auroc").values)
    assert Leaderboard.load(tmp_path).as_json() == board.as_json()
    assert board.report == tmp_path / "report.html"
    cell = read_cell(tmp_path / "cells/toy-contrast/seed-1")
    assert cell is not None
    assert cell.fit_seconds > 0
    assert cell.predict_milliseconds > 0
    other = read_cell(tmp_path / "cells/toy-noise/seed-1")
    assert other is not None
    assert list(cell.pictures) == list(other.pictures) != []
    for file in tmp_path.rglob("*.json"):
        json.loads(
            file.read_text(), parse_constant=lambda word, file=file: pytest.fail(f"{file} holds {word}")
        )
    test_images = len(pinakes.load_data(DATA, task="anomaly").test or ())
    assert (
        len(json.loads((tmp_path / "cells/toy-contrast/seed-1/scores.json").read_text())["score"])
        == test_images
    )


def test_a_cell_gives_what_fitting_and_judging_by_hand_give(tmp_path: Path) -> None:
    board = compared(tmp_path, "toy-contrast")
    by_hand = pinakes.create("toy-contrast").fit(DATA, seed=0).evaluate(DATA)
    assert {name: found.mean for name, found in board.rows[0].metrics.items()} == pytest.approx(by_hand)


def test_the_same_call_again_runs_no_finished_cell(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = {"toy-contrast": {"log": str(log)}}
    first = compared(tmp_path / "out", "toy-contrast", options=options)
    second = compared(tmp_path / "out", "toy-contrast", options=options)
    assert fits(log) == ["0"]
    assert second.as_json() == first.as_json()


def test_more_seeds_run_only_those_that_are_new(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for seeds in (1, 2):
        compared(tmp_path / "out", "toy-contrast", seeds=seeds, options={"toy-contrast": {"log": str(log)}})
    assert fits(log) == ["0", "1"]


@pytest.mark.parametrize("change", [{"size": 40}, {"batch_size": 7}])
def test_other_conditions_run_the_cells_again(tmp_path: Path, change: dict[str, Any]) -> None:
    log = tmp_path / "log"
    for changes in ({}, change):
        compared(tmp_path / "out", "toy-contrast", options={"toy-contrast": {"log": str(log)}}, **changes)
    assert fits(log) == ["0", "0"]


def test_the_key_follows_the_conditions_alone() -> None:
    paper = find("toy-noise")
    assert cell_key(paper, seed=0, size=(32, 32)) == cell_key(paper, size=(32, 32), seed=0)
    assert cell_key(paper, seed=0) != cell_key(paper, seed=1)
    assert cell_key(paper, seed=0) != cell_key(find("toy-contrast"), seed=0)


def test_a_cell_with_a_missing_file_is_run_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = {"toy-contrast": {"log": str(log)}}
    compared(tmp_path / "out", "toy-contrast", options=options)
    next((tmp_path / "out/cells/toy-contrast/seed-0/pictures").iterdir()).unlink()
    compared(tmp_path / "out", "toy-contrast", options=options)
    assert fits(log) == ["0", "0"]


def test_a_failing_cell_is_recorded_and_does_not_stop_the_others(tmp_path: Path) -> None:
    board = compared(tmp_path, "toy-broken,toy-contrast", seeds=2)
    assert [row.slug for row in board.ranked] == ["toy-contrast"]
    assert [(failure.slug, failure.seed) for failure in board.failures] == [
        ("toy-broken", 0),
        ("toy-broken", 1),
    ]
    assert board.failures[0].reason == "RuntimeError: the wheel came off"
    assert "Traceback" in (tmp_path / board.failures[0].traceback).read_text()


def test_images_too_small_for_one_method_fail_its_cells_alone(tmp_path: Path) -> None:
    board = compared(tmp_path, "patchcore,toy-contrast", size=16)
    assert [row.slug for row in board.ranked] == ["toy-contrast"]
    assert "size" in board.failures[0].reason


def test_failed_cells_are_tried_again(tmp_path: Path) -> None:
    mended = tmp_path / "mended"
    options = {"toy-broken": {"works_with": str(mended)}}
    assert compared(tmp_path / "out", "toy-broken", options=options).all_failed
    mended.touch()
    board = compared(tmp_path / "out", "toy-broken", options=options)
    assert not board.failures
    assert not (tmp_path / "out/cells/toy-broken/seed-0/error.txt").exists()


def test_an_interrupted_comparison_goes_on_where_it_stopped(tmp_path: Path) -> None:
    log, interrupt = tmp_path / "log", tmp_path / "interrupt"
    options = {"toy-contrast": {"log": str(log), "interrupted_by": str(interrupt)}}
    interrupt.touch()
    with pytest.raises(KeyboardInterrupt):
        compared(tmp_path / "out", "toy-contrast", seeds=2, options=options)
    interrupt.unlink()
    board = compared(tmp_path / "out", "toy-contrast", seeds=2, options=options)
    assert fits(log) == ["0", "1"]
    assert board.rows[0].seeds == (0, 1)


def test_a_request_to_end_is_not_taken_for_a_cell_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_with_its_workers(cell: Cell, *_: Any) -> tuple[CellResult, dict[str, bytes]]:
        with contextlib.suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        return CellResult(cell.paper.slug, cell.seed, cell.key, error="a worker was killed"), {}

    monkeypatch.setattr("pinakes.lab.compare.run_cell", killed_with_its_workers)
    with pytest.raises(SystemExit):
        compared(tmp_path)
    assert not list(tmp_path.glob("cells/*"))


def test_shown_images_are_balanced_over_kinds_and_the_same_each_time() -> None:
    kinds = ["good"] * 50 + ["crack"] * 30 + ["dent"] * 2
    truth = {"label": [int(kind != "good") for kind in kinds], "kind": kinds}
    chosen = choose(truth, len(kinds), count=12)
    assert [kinds[index] for index in chosen] == ["good"] * 5 + ["crack"] * 5 + ["dent"] * 2
    assert chosen == choose(truth, len(kinds), count=12)
    assert choose({}, 3, count=12) == [0, 1, 2]


def test_a_folder_with_another_comparison_is_refused(tmp_path: Path) -> None:
    compared(tmp_path, "toy-noise")
    with pytest.raises(pinakes.UserError, match=f"{tmp_path}: holds another comparison"):
        pinakes.compare("anomaly", "textures?size=32&n=12", "toy-noise", out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": "patchcor"}, "did you mean 'patchcore'"),
        ({"methods": []}, "none are given"),
        ({"options": {"toy-noise": {"powr": 2}}}, "toy-noise has no option 'powr'"),
        ({"options": {"toy-contrast": {"powr": 2}}}, "did you mean 'power'"),
        ({"options": {"toy-contrast": {"power": -1}}}, "toy-contrast: power: expected above 0, got -1"),
        ({"options": {"toy-contrst": {"power": 2}}}, "did you mean 'toy-contrast'"),
        ({"seeds": 0}, "seeds: expected a whole number of 1 or more"),
        ({"epoch": 2}, "did you mean 'epochs'"),
        ({"epochs": 0}, "epochs: expected"),
        ({"epochs": 1, "steps": 1}, "give one of the two"),
        ({"seed": 1}, "compare has no setting 'seed'"),
        ({"device": "cua"}, "device: 'cua' is unknown"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(pinakes.UserError, match=message):
        compared(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()
