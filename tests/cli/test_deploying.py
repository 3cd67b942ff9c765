"""`pinakes predict --tile` and `pinakes export`."""

import json
from pathlib import Path

import numpy as np
import pytest

import pinakes
from pinakes.engine import export
from tests.cli.conftest import Command, write_image


def test_predict_in_tiles_keeps_the_resolution(
    pinakes_command: Command, fitted: Path, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "new/board.png", size=(70, 100))
    result = pinakes_command(f"predict {fitted} new --tile 40 --overlap 8 --out found")
    assert result.exit_code == 0, result.output
    (line,) = [json.loads(each) for each in (tmp_path / "found/predictions.jsonl").read_text().splitlines()]
    expected = pinakes.load(fitted).predict(image, tile=40, overlap=8)
    assert line["score"] == pytest.approx(float(expected["score"]))
    assert np.load(tmp_path / "found" / line["map"]).shape == (70, 100)


@pytest.mark.parametrize(
    ("options", "named"),
    [("--tile 40 --overlap 40", "overlap: expected 0 to 39"), ("--overlap 8", "overlap: is that of tiles")],
)
def test_sides_that_make_no_tiles_are_one_line(
    options: str, named: str, pinakes_command: Command, fitted: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "new/board.png")
    result = pinakes_command(f"predict {fitted} new {options} --out found")
    assert result.exit_code == 2
    assert named in result.output
    assert not (tmp_path / "found").exists()


def test_export_writes_graph_and_description_and_prints_the_differences(
    pinakes_command: Command, fitted: Path, tmp_path: Path
) -> None:
    result = pinakes_command(f"export {fitted} --to torchscript --out parts.pt --size 48x32")
    assert result.exit_code == 0, result.output
    assert "batch x 48 x 32" in result.stdout
    assert "parts.pt.json" in result.stdout
    stated = json.loads((tmp_path / "parts.pt.json").read_text())
    assert (stated["method"], stated["input"]["shape"]) == ("patchcore", ["batch", 3, 48, 32])
    assert max(each["difference"] for each in stated["outputs"]) <= export.TOLERANCE


def test_export_errors_are_one_line(
    pinakes_command: Command, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(export.NEEDS, "onnx", ("no_such_package",))
    for words, named in (
        (f"{fitted} --to tflite", "'tflite' is no format"),
        (f"{fitted}", "pip install 'pinakes[export]'"),
        (f"{tmp_path / 'nothing'} --to torchscript", "holds no run"),
    ):
        result = pinakes_command(f"export {words}")
        assert result.exit_code == 2
        assert named in result.output
