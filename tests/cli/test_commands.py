"""What each command prints and writes when all is well."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

import pinakes
from pinakes.cli.output import run_name
from tests.cli.conftest import DATA, Command, write_image


def test_bare_command_and_version(pinakes_command: Command) -> None:
    assert "compare" in pinakes_command("").stdout
    assert pinakes_command("--version").stdout == f"pinakes {pinakes.__version__}\n"


def test_fit_says_what_it_recognised_where_the_run_is_and_what_to_do_next(
    pinakes_command: Command, tmp_path: Path
) -> None:
    result = pinakes_command(f"fit patchcore --data '{DATA}' --set coreset_ratio=0.5 --set layers=2 --seed 3")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("data: ")
    assert "8 train, 8 test; 32x32 pixels, 3 channels" in result.stdout
    assert f"pinakes evaluate runs/patchcore-textures --data '{DATA}'" in result.stdout
    assert "pinakes predict runs/patchcore-textures" in result.stdout
    method = pinakes.load(tmp_path / "runs/patchcore-textures")
    assert (method.options["coreset_ratio"], method.options["layers"]) == (0.5, (2,))


def test_fit_has_networks_translated_where_it_is_asked_to(
    pinakes_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    translated: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda network: translated.append(type(network).__name__))
    line = "fit ddpm --data 'digits?size=8&n=16' --steps 1 --set n_channels=8 --out runs/ddpm"
    assert pinakes_command(line).exit_code == 0
    assert not translated
    assert pinakes_command(f"{line}-2 --compile").exit_code == 0
    assert translated == ["UNet", "MomentumCopy"]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("textures?size=64", "patchcore-textures"),
        ("mvtec:parts/Wood screws?size=64", "patchcore-wood-screws"),
        ("parts/", "patchcore-parts"),
        ("/", "patchcore-data"),
    ],
)
def test_default_run_folder_is_named_after_method_and_data(data: str, name: str) -> None:
    assert run_name("patchcore", data) == name


def test_evaluate_prints_metrics_and_groups(pinakes_command: Command, fitted: Path) -> None:
    result = pinakes_command(f"evaluate {fitted} --data '{DATA}'")
    assert result.exit_code == 0, result.output
    assert all(words in result.stdout for words in ("AUROC", "pixel AUROC", "group", "scratch"))


def test_evaluate_as_json_is_what_python_says(pinakes_command: Command, fitted: Path) -> None:
    result = pinakes_command(f"evaluate {fitted} --data '{DATA}' --json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["metrics"] == pytest.approx(pinakes.load(fitted).evaluate(DATA))
    assert set(found) == {"metrics", "groups", "data", "skipped"}
    assert "data:" in result.stderr


def test_predict_writes_lines_maps_and_pictures(
    pinakes_command: Command, fitted: Path, tmp_path: Path
) -> None:
    images = [write_image(tmp_path / "new" / name, seed=i) for i, name in enumerate(["a/x.png", "b/x.png"])]
    alone = write_image(tmp_path / "alone.png", size=(40, 24), seed=5)
    result = pinakes_command(f"predict {fitted} new alone.png --out found")
    assert result.exit_code == 0, result.output
    assert "3 predictions: found/predictions.jsonl" in result.stdout
    lines = [json.loads(line) for line in (tmp_path / "found/predictions.jsonl").read_text().splitlines()]
    expected = pinakes.load(fitted).predict([*images, alone])
    assert [Path(line["path"]).name for line in lines] == ["x.png", "x.png", "alone.png"]
    assert [line["score"] for line in lines] == pytest.approx(expected["score"].tolist())
    for line, expected_map in zip(lines, expected["map"], strict=True):
        np.testing.assert_allclose(np.load(tmp_path / "found" / line["map"]), expected_map.numpy(), rtol=1e-5)
        assert Image.open(tmp_path / "found" / line["picture"]).height > 160


def test_predict_leaves_bad_files_out_and_lists_them(
    pinakes_command: Command, fitted: Path, tmp_path: Path
) -> None:
    write_image(tmp_path / "new/good.png")
    (tmp_path / "new/bad.png").write_text("no image")
    result = pinakes_command(f"predict {fitted} new --out found --skip-bad")
    assert result.exit_code == 0, result.output
    assert "left out: new/bad.png" in result.stdout
    assert "1 predictions" in result.stdout


def test_compare_prints_the_leaderboard_and_continues(pinakes_command: Command, tmp_path: Path) -> None:
    line = f"compare anomaly --data '{DATA}' --methods patchcore --seeds 1 --out cmp --set patchcore.sigma=2"
    result = pinakes_command(line)
    assert result.exit_code == 0, result.output
    assert "AUROC" in result.stdout
    assert "report: cmp/report.html" in result.stdout
    written = (tmp_path / "cmp/cells/patchcore/seed-0/cell.json").stat().st_mtime_ns
    found = json.loads(pinakes_command(f"{line} --json").stdout)
    assert found["rows"][0]["slug"] == "patchcore"
    assert found["report"] == "cmp/report.html"
    assert (tmp_path / "cmp/cells/patchcore/seed-0/cell.json").stat().st_mtime_ns == written


def test_compare_with_a_failed_cell_exits_with_1_and_names_it(pinakes_command: Command, parts: Path) -> None:
    for path in sorted((parts / "train/good").iterdir())[1:]:
        path.unlink()
    methods = "patchcore,nl2-autoencoder-ood"
    result = pinakes_command(f"compare anomaly --data parts --methods {methods} --seeds 1 --out cmp --json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["failures"]) == 1
    assert "error: nl2-autoencoder-ood, seed 0: " in result.stderr
    assert "needs at least 2" in result.stderr


def test_data_says_what_was_recognised(pinakes_command: Command, parts: Path, tmp_path: Path) -> None:
    result = pinakes_command("data parts --task anomaly --out look")
    assert result.exit_code == 0, result.output
    assert all(words in result.stdout for words in ("MVTec AD layout", "good 4", "hole 2", "8 of 32x32"))
    assert Image.open(tmp_path / "look/contact_sheet.png").width > 500


def test_data_as_json(pinakes_command: Command, parts: Path, tmp_path: Path) -> None:
    found = json.loads(pinakes_command("data parts --json").stdout)
    assert found["splits"]["train"]["count"] == 4
    assert found["contact_sheet"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts"]


def test_data_lists_every_bad_file(pinakes_command: Command, parts: Path) -> None:
    for name in ("one", "two"):
        (parts / f"train/good/{name}.png").write_bytes(b"")
    result = pinakes_command("data parts --out look --json")
    assert result.exit_code == 2
    assert [Path(each["path"]).name for each in json.loads(result.stdout)["skipped"]] == [
        "one.png",
        "two.png",
    ]
    assert result.stderr.startswith("error: 2 files cannot be used, first parts/train/good/one.png")
    assert not Path("look").exists()
    assert pinakes_command("data parts --skip-bad").exit_code == 0


def test_doctor_checks_this_machine(pinakes_command: Command) -> None:
    found = json.loads(pinakes_command("doctor --json").stdout)
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert states["torch"] == states["training"] == states["pinakes/tiny_conv"] == "ok"
    assert found["ok"] == ("broken" not in states.values())


def test_doctor_as_a_list(pinakes_command: Command) -> None:
    result = pinakes_command("doctor")
    assert "training: Lightning trains a step on" in result.stdout
    assert result.exit_code == ("broken" in result.stdout)
