"""`pinakes embed`, `duplicates`, `map`, `differ` and `exclude`."""

import importlib.util
import json
from pathlib import Path

import pytest

import pinakes
from pinakes.collections import read_embeddings
from tests.cli.conftest import Command, write_image


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The run folder of a method that gives embeddings."""
    method = pinakes.create("random-weights").prepare(pinakes.DataInfo(3, (32, 32)))
    saved: Path = method.save(tmp_path / "run")
    return saved


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images of noise in two classes; one is there twice."""
    for index in range(6):
        write_image(tmp_path / f"photos/{'ab'[index % 2]}/{index}.png", seed=index % 5)
    return tmp_path / "photos"


def test_embed_writes_what_the_method_says(
    pinakes_command: Command, run: Path, photos: Path, tmp_path: Path
) -> None:
    result = pinakes_command("embed run photos --out out/e.npz --workers 0")
    assert result.exit_code == 0, result.output
    assert "data: 6 images in 2 classes" in result.stdout
    assert "numbers an image: out/e.npz" in result.stdout
    found = read_embeddings(tmp_path / "out/e.npz")
    assert found.paths == ("a/0.png", "a/2.png", "a/4.png", "b/1.png", "b/3.png", "b/5.png")
    expected = pinakes.load(run).predict([photos / path for path in found.paths])["embedding"]
    assert found.embedding == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)


def test_duplicates_prints_a_summary_and_writes_json_and_page(
    pinakes_command: Command, run: Path, photos: Path, tmp_path: Path
) -> None:
    result = pinakes_command("duplicates run photos --out out --threshold 0.9999 --workers 0")
    assert result.exit_code == 0, result.output
    assert "1 group of near-duplicates among 6 images: 1 image could go" in result.stdout
    assert "1 group with more than one class (a and b 1)" in result.stdout
    assert "page: out/duplicates.html" in result.stdout
    (group,) = json.loads((tmp_path / "out/duplicates.json").read_text())["groups"]
    assert [each["path"] for each in group["images"]] == ["a/0.png", "b/5.png"]
    assert (photos / "b/5.png").exists()


def test_map_writes_a_page(pinakes_command: Command, run: Path, photos: Path, tmp_path: Path) -> None:
    result = pinakes_command("map run photos --out map.html --workers 0")
    assert result.exit_code == 0, result.output
    assert "map, two principal components" in result.stdout
    assert "<canvas" in (tmp_path / "map.html").read_text()


def test_differ_prints_a_table_and_writes_json_and_page(
    pinakes_command: Command, run: Path, photos: Path, tmp_path: Path
) -> None:
    result = pinakes_command("differ run photos/a photos/b --out out --prototypes 2 --workers 0")
    assert result.exit_code == 0, result.output
    assert "a: 3 images" in result.stdout
    assert "a and b have " in result.stdout
    assert "Both have" in result.stdout
    assert "page: out/differ.html" in result.stdout
    values = json.loads((tmp_path / "out/differ.json").read_text())
    assert [each["images"] for each in values["collections"]] == [3, 3]
    assert sum(each["collections"][0]["images"] for each in values["prototypes"]) == 3


def test_exclude_makes_a_folder_without_what_a_detector_finds(
    pinakes_command: Command, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "last_class_detector.py").write_text(
        "def find(images):\n    return [{'scores': [image[0, 0, 0]]} for image in images]\n"
    )
    result = pinakes_command("exclude photos --detector last_class_detector:find --out out --workers 0")
    assert result.exit_code == 0, result.output
    values = json.loads((tmp_path / "out/exclude.json").read_text())
    assert f"{6 - values['kept']} of 6 images" in result.stdout
    assert "page: out/exclude.html" in result.stdout
    assert len(list((tmp_path / "out/images").rglob("*.png"))) == values["kept"]
    assert 0 < values["kept"] < 6


def test_bad_files_are_left_out_and_listed(
    pinakes_command: Command, run: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "a/bad.png").write_text("no image")
    for line in (
        "embed run photos --out e.npz",
        "duplicates run photos --out out",
        "map run photos --out m.html",
        "differ run photos photos --out both",
    ):
        assert pinakes_command(f"{line} --workers 0").exit_code == 2
        result = pinakes_command(f"{line} --skip-bad --workers 0")
        assert result.exit_code == 0, result.output
        assert "left out: photos/a/bad.png" in result.stdout


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("embed FITTED photos --out e.npz", ("'patchcore'", "task anomaly", "task representation")),
        ("duplicates nowhere photos --out out", ("nowhere", "holds no run")),
        ("embed run nowhere --out e.npz", ("nowhere",)),
        ("map run empty --out m.html", ("empty", "give a folder with images")),
        ("embed run photos --out e.csv", ("e.csv", ".npz or .parquet")),
        ("embed run photos --out photos/a/0.png/e.npz", ("cannot be written", "--out")),
        ("duplicates run photos --out out --threshold 1.5", ("threshold", "at most 1", "1.5")),
        ("map run photos --out m.html --by tsne", ("'tsne'", "pca, umap")),
        ("map run photos --out m.png", ("m.png", ".html")),
        ("differ run photos photos --out out --prototypes 1", ("prototypes", "2 or more", "1")),
        ("differ run photos empty --out out", ("empty", "give a folder with images")),
        ("differ FITTED photos photos --out out", ("'patchcore'", "task representation")),
        ("exclude photos --out out --detector faces", ("'faces'", "coco:person", "MODULE:FUNCTION")),
        ("exclude photos --out photos/out", ("photos/out", "would become part of it")),
        ("exclude photos --out out --how move", ("'move'", "copy, link, list")),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(
    line: str,
    words: tuple[str, ...],
    pinakes_command: Command,
    run: Path,
    photos: Path,
    fitted: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    result = pinakes_command(line.replace("FITTED", str(fitted)))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line", ["embed run photos --out e.parquet", "map run photos --out m.html --by umap"]
)
def test_a_missing_package_is_named_before_any_work(
    line: str, pinakes_command: Command, run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in ("pyarrow", "umap") else found(name, *a)
    )
    result = pinakes_command(line)
    assert result.exit_code == 2
    assert "pip install 'pinakes[collections]'" in result.stderr
