import json
from pathlib import Path
from typing import Any

import pytest

import pinakes
from pinakes.lab.leaderboard import Leaderboard
from tests.lab.shelf_of_toys import toys
from tests.report.test_page import Page

__all__ = ["toys"]

pytestmark = pytest.mark.usefixtures("toys")
DATA = "textures?size=32&n=8"


def compared(out: Path, **changes: Any) -> Leaderboard:
    return pinakes.compare(
        "anomaly",
        DATA,
        **{"methods": "toy-taught,toy-noise", "seeds": 2, "out": out, "device": "cpu", **changes},
    )


def test_what_methods_learnt_from_is_judged_once_and_not_ranked(tmp_path: Path) -> None:
    board = compared(tmp_path)
    (teacher,) = board.references
    assert (teacher.label, teacher.methods) == ("teacher: 2", ("toy-taught",))
    assert len(list((tmp_path / "references").iterdir())) == 1
    by_hand = pinakes.create("toy-contrast", power=2.0).fit(DATA).evaluate(DATA)
    assert teacher.metrics == pytest.approx(by_hand)
    assert teacher.predict_milliseconds > 0
    assert sorted(row.slug for row in board.rows) == ["toy-noise", "toy-taught"]
    assert Leaderboard.load(tmp_path).references == board.references
    assert [
        each["what"] for each in json.loads((tmp_path / "leaderboard.json").read_text())["references"]
    ] == ["2"]


def test_a_second_run_keeps_it_and_other_options_bring_another(tmp_path: Path) -> None:
    first = compared(tmp_path)
    file = next((tmp_path / "references").iterdir())
    written = file.stat().st_mtime_ns
    assert compared(tmp_path).references == first.references
    assert file.stat().st_mtime_ns == written
    other = compared(tmp_path, options={"toy-taught": {"teacher": "3"}})
    assert [each.what for each in other.references] == ["3"]


def test_a_lost_reference_is_judged_again(tmp_path: Path) -> None:
    first = compared(tmp_path)
    next((tmp_path / "references").iterdir()).unlink()
    assert compared(tmp_path).references[0].metrics == first.references[0].metrics


def test_a_reference_that_cannot_be_judged_costs_no_cell(tmp_path: Path) -> None:
    board = compared(tmp_path, options={"toy-taught": {"teacher": "broken"}})
    assert not board.failures
    assert "Mute gives no predict_step" in board.references[0].error
    assert "Mute gives no predict_step" in (tmp_path / "report.html").read_text()


def test_it_stands_apart_in_every_table(tmp_path: Path) -> None:
    board = compared(tmp_path, seeds=1)
    lines = repr(board).splitlines()
    assert [line.split()[0] for line in lines if "teacher: 2" in line] == ["teacher:"]
    assert "not ranked" in repr(board)
    assert board._repr_html_().count("<tbody>") == 2
    text = (tmp_path / "report.html").read_text()
    assert {"class": "references"} in Page(text).all("tbody")
    assert "teacher: 2" in text
    assert "2 methods" in text


def test_without_references_nothing_is_said_of_them(tmp_path: Path) -> None:
    board = compared(tmp_path, methods="toy-noise", seeds=1)
    assert board.references == ()
    assert "not ranked" not in repr(board) + (tmp_path / "report.html").read_text()
    assert not (tmp_path / "references").exists()


def test_a_leaderboard_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    compared(tmp_path, methods="toy-noise", seeds=1)
    file = tmp_path / "leaderboard.json"
    values = json.loads(file.read_text())
    del values["references"]
    file.write_text(json.dumps(values))
    assert Leaderboard.load(tmp_path).references == ()
