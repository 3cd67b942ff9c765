import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from pinakes.catalogue import Paper
from pinakes.errors import UserError
from pinakes.lab.cells import CellResult
from pinakes.lab.leaderboard import Leaderboard
from pinakes.lab.ranking import rank
from pinakes.tasks.base import Metric

ACCURACY = Metric("accuracy", "accuracy", "share that is right")
ERROR = Metric("error", "error", "share that is wrong", higher_is_better=False)


def paper(slug: str) -> Paper:
    return Paper(
        slug, f"On {slug}", "Somebody et al.", "CVPR 2020", "arXiv:2001.00001", "anomaly", "m:C", "An idea."
    )


def board(values: dict[str, list[float]], metric: Metric = ACCURACY) -> Leaderboard:
    results = [
        CellResult(slug, seed, "key", metrics={metric.name: value}, fit_seconds=1.0, predict_milliseconds=2.0)
        for slug, several in values.items()
        for seed, value in enumerate(several)
    ]
    return rank("anomaly", "textures", [metric], [paper(slug) for slug in values], results)


def test_rows_are_in_the_order_of_the_headline_metric() -> None:
    values = {"low": [0.1], "high": [0.9], "nothing": [math.nan], "middle": [0.5]}
    assert [row.slug for row in board(values).rows] == ["high", "middle", "low", "nothing"]


def test_where_lower_is_better_the_lowest_is_first() -> None:
    values = {"low": [0.1], "high": [0.9], "nothing": [math.nan]}
    found = board(values, ERROR)
    assert [row.slug for row in found.rows] == ["low", "high", "nothing"]
    assert found.best(found.headline) == 0.1
    lead = found.lead()
    assert lead is not None
    assert lead.mean == pytest.approx(0.8)


def test_lead_is_the_paired_difference_over_common_seeds() -> None:
    lead = board({"first": [0.9, 0.8, 0.7], "second": [0.8, 0.75]}).lead()
    assert lead is not None
    assert lead.values == pytest.approx((0.1, 0.05))


def test_failed_cells_are_listed_and_a_method_without_a_result_is_last() -> None:
    results = [
        CellResult("good", 0, "k", metrics={"accuracy": 0.5}),
        CellResult("bad", 0, "k", error="out of memory"),
    ]
    found = rank("anomaly", "textures", [ACCURACY], [paper("bad"), paper("good")], results)
    assert [row.slug for row in found.rows] == ["good", "bad"]
    assert [(failure.slug, failure.reason) for failure in found.failures] == [("bad", "out of memory")]
    assert not found.all_failed
    assert "1 cell failed" in repr(found)


def test_when_every_cell_fails_the_leaderboard_says_so() -> None:
    found = rank(
        "anomaly", "textures", [ACCURACY], [paper("bad")], [CellResult("bad", 0, "k", error="no luck")]
    )
    assert found.all_failed
    assert "every cell failed; the first: no luck" in repr(found)


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    found = board({"one": [0.9, 0.8], "two": [math.nan, 0.5]})
    file = found.save(tmp_path)
    json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert Leaderboard.load(tmp_path).as_json() == found.as_json()
    assert Leaderboard.load(file).rows[0].metric("accuracy").values == (0.9, 0.8)


def test_a_folder_without_a_leaderboard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        Leaderboard.load(tmp_path)


def test_a_damaged_leaderboard_is_named(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.json").write_text('{"task": "anomaly"')
    with pytest.raises(UserError, match=r"leaderboard\.json: is damaged"):
        Leaderboard.load(tmp_path)


@pytest.mark.parametrize("width", [50, 60, 80, 120, 200])
def test_the_table_fits_the_terminal_and_keeps_method_and_headline(width: int) -> None:
    console = Console(width=width, color_system=None)
    with console.capture() as printed:
        console.print(board({"a-method-of-long-name": [0.9, 0.8], "another": [0.5, 0.4]}))
    assert "a-method-of-long-name" in printed.get()
    assert "0.850 ± 0.635" in printed.get()


def test_notebooks_get_an_escaped_table() -> None:
    assert "<td>&lt;b&gt;</td>" in board({"<b>": [0.5]})._repr_html_()


def test_reading_a_leaderboard_does_not_import_torch() -> None:
    code = "import sys, pinakes.lab.leaderboard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
