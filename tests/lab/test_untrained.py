import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pinakes
from pinakes.lab.intervals import Estimate
from pinakes.lab.leaderboard import Column, Leaderboard, Row
from pinakes.lab.untrained import FILE
from pinakes.papers.self_supervised.rotnet import RotNet

DATA = "digits?n=60&size=32"


def compared(out: Path, **changes: Any) -> Leaderboard:
    given = {"methods": "rotnet,random-weights", "seeds": 2, "steps": 2, "out": out, "device": "cpu"}
    return pinakes.compare("representation", DATA, **{**given, **changes})


def test_what_is_learnt_is_held_against_the_same_network_and_seed(tmp_path: Path) -> None:
    board = compared(tmp_path)
    rows = {row.slug: row for row in board.rows}
    assert rows["random-weights"].gain(board.headline) == Estimate((0.0, 0.0))
    info = pinakes.load_data(DATA, task="representation").info
    by_hand = [
        pinakes.create("rotnet").prepare(info, seed=seed).eval().evaluate(DATA)["linear_probe"]
        for seed in (0, 1)
    ]
    row = rows["rotnet"]
    assert row.untrained["linear_probe"].values == pytest.approx(by_hand)
    learnt = [
        after - before for after, before in zip(row.metric("linear_probe").values, by_hand, strict=True)
    ]
    assert row.gain(board.headline).values == pytest.approx(learnt)
    assert Leaderboard.load(tmp_path).rows == board.rows
    assert "gain" in repr(board)
    assert "before it learnt" in (tmp_path / "report.html").read_text()


def test_it_is_judged_once_and_again_where_it_was_lost(tmp_path: Path) -> None:
    first = compared(tmp_path)
    file = tmp_path / "cells" / "rotnet" / "seed-1" / FILE
    kept = file.read_text()
    file.write_text('{"linear_probe": 0.25, "knn": null}')
    (again,) = (row for row in compared(tmp_path).rows if row.slug == "rotnet")
    assert again.untrained["linear_probe"].values[1] == 0.25
    file.unlink()
    assert compared(tmp_path).rows == first.rows
    assert json.loads(file.read_text()) == pytest.approx(json.loads(kept))


def test_a_network_that_cannot_be_judged_untrained_costs_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learn = RotNet.learn

    def broken(self: RotNet, *arguments: Any) -> None:
        learn(self, *arguments)
        self.has_learnt = True

    def evaluate(self: RotNet, *arguments: Any, **named: Any) -> Any:
        if not getattr(self, "has_learnt", False):
            raise RuntimeError("has nothing to say")
        return pinakes.Method.evaluate_fully(self, *arguments, **named)

    monkeypatch.setattr(RotNet, "learn", broken)
    monkeypatch.setattr(RotNet, "evaluate_fully", evaluate)
    with caplog.at_level(logging.WARNING):
        board = compared(tmp_path, methods="rotnet", seeds=1)
    assert not board.failures
    assert not board.shows_gain
    assert "rotnet cannot be judged untrained: has nothing to say" in caplog.text
    assert "Gain" not in (tmp_path / "report.html").read_text()


def test_methods_that_end_below_their_start_are_named() -> None:
    accuracy, error = Column("accuracy", "accuracy", "", True), Column("error", "error", "", False)
    row = Row(
        "one",
        seeds=(0, 1),
        metrics={"accuracy": Estimate((0.5, 0.59)), "error": Estimate((0.5, 0.4))},
        untrained={"accuracy": Estimate((0.6, 0.6)), "error": Estimate((0.6, float("nan")))},
    )
    assert row.gain(accuracy).mean == pytest.approx(-0.055)
    assert row.gain(error).mean == pytest.approx(0.1)
    assert Leaderboard("task", "data", (accuracy,), (row,)).lost == (row,)
    assert Leaderboard("task", "data", (error,), (row,)).lost == ()
    one_seed_is_level = replace(row, metrics={"accuracy": Estimate((0.5, 0.6))})
    assert Leaderboard("task", "data", (accuracy,), (one_seed_is_level,)).lost == ()
    assert Row("two", seeds=(0,)).gain(accuracy) == Estimate()
