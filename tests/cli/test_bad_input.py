"""Every kind of bad input, through the real command line: one line that names it and the remedy; nothing is written."""

from pathlib import Path

import pytest

from tests.cli.conftest import DATA, Command, write_image, write_mask
from tests.cli.spoiling import Case, bomb, change_run, cut, flip_a_weight, remove, write_bytes

FIT = f"fit patchcore --data '{DATA}' --out out"
FIT_PARTS = "fit patchcore --data parts --out out"


CASES = [
    # paths
    Case("missing path", "fit patchcore --data nowhere/parts --out out", ("nowhere/parts", "check the path")),
    Case("misspelt set", "fit patchcore --data texture --out out", ("texture", "did you mean 'textures'?")),
    Case(
        "misspelt scheme",
        "fit patchcore --data mvtek:parts --out out",
        ("mvtek", "did you mean 'mvtec'?"),
    ),
    Case(
        "empty folder",
        "fit patchcore --data empty --out out",
        ("empty", "nothing in it", "give a folder with images"),
        lambda folder: (folder / "empty").mkdir(),
    ),
    Case(
        "no images",
        "fit patchcore --data notes --out out",
        ("notes", "1 .txt", "give a folder with images"),
        write_bytes("notes/a.txt", b"hello"),
    ),
    Case(
        "no known layout",
        "fit patchcore --data mixed --out out",
        ("mixed", "known layouts", "move them"),
        lambda folder: [write_image(folder / "mixed" / name) for name in ("a.png", "b/c.png")],
    ),
    Case(
        "classes where normal images are needed",
        "fit patchcore --data classes --out out",
        ("classes", "?normal=CLASS"),
        lambda folder: [
            write_image(folder / "classes" / n) for n in ("a/1.png", "a/2.png", "b/1.png", "b/2.png")
        ],
    ),
    # files
    Case(
        "not an image",
        FIT_PARTS,
        ("parts/train/good/9.png", "--skip-bad"),
        write_bytes("parts/train/good/9.png", b"hello"),
    ),
    Case("truncated", FIT_PARTS, ("parts/train/good/1.png", "damaged or cut short", "--skip-bad"), cut),
    Case(
        "zero size",
        FIT_PARTS,
        ("parts/test/hole/9.png", "--skip-bad"),
        lambda folder: [
            write_bytes("parts/test/hole/9.png", b"")(folder),
            write_mask(folder / "parts/ground_truth/hole/9_mask.png"),
        ],
    ),
    Case(
        "decompression bomb",
        FIT_PARTS,
        ("parts/train/good/9.png", "pixels that are safe to decode", "cut it into tiles", "--skip-bad"),
        write_bytes("parts/train/good/9.png", bomb()),
    ),
    Case(
        "mask of another size",
        FIT_PARTS,
        ("parts/ground_truth/hole/0_mask.png", "16 x 16", "32 x 32", "--skip-bad"),
        lambda folder: write_mask(folder / "parts/ground_truth/hole/0_mask.png", (16, 16)),
    ),
    Case(
        "mask without image",
        FIT_PARTS,
        ("parts/ground_truth/hole/0_mask.png", "--skip-bad"),
        remove("parts/test/hole/0.png"),
    ),
    Case(
        "image without mask",
        FIT_PARTS,
        ("parts/test/hole/0.png", "has no mask", "0_mask.png"),
        remove("parts/ground_truth/hole/0_mask.png"),
    ),
    # too little
    Case(
        "one class only",
        "evaluate RUN --data parts",
        ("both normal and anomalous",),
        remove("parts/test/good/*.png"),
    ),
    Case(
        "nothing to judge on",
        "evaluate RUN --data flat",
        ("test", "choose from train"),
        lambda folder: write_image(folder / "flat/1.png"),
    ),
    Case(
        "no training images",
        "fit patchcore --data mvtec:parts --out out",
        ("parts", "train/good"),
        remove("parts/train/good/*.png"),
    ),
    # settings
    Case("size too small", f"{FIT} --size 8", ("size", "at least 32 pixels", "larger size")),
    Case("size not a number", f"{FIT} --size big", ("--size", "64x96", "'big'")),
    Case("size zero", f"{FIT} --size 0", ("size", "from 1 to")),
    Case("epochs out of range", f"{FIT} --epochs 0", ("epochs", "1 or more", "0")),
    Case("epochs and steps", f"{FIT} --epochs 1 --steps 1", ("epochs, steps", "one of the two")),
    Case("unknown precision", f"{FIT} --precision 12", ("precision", "'12'", "16")),
    Case("unknown device", f"{FIT} --device cud", ("device", "did you mean 'cuda'?")),
    Case("device that is not there", f"{FIT} --device cuda:99", ("cuda:99", "is not on this machine")),
    Case(
        "option of the wrong type", f"{FIT} --set neighbours=many", ("neighbours", "whole number", "'many'")
    ),
    Case("option out of range", f"{FIT} --set coreset_ratio=5", ("coreset_ratio", "above 0 to 1", "5.0")),
    Case("misspelt option", f"{FIT} --set neighbors=5", ("neighbors", "did you mean 'neighbours'?")),
    Case("option without value", f"{FIT} --set neighbours", ("neighbours", "NAME=VALUE")),
    Case("unknown backbone", f"{FIT} --set backbone=pinakes/tiny_con", ("backbone", "'pinakes/tiny_conv'")),
    Case(
        "backbone that timm has not",
        f"{FIT} --set backbone=timm/resnet19",
        ("backbone", "resnet19", "did you mean"),
    ),
    Case(
        "layer that the backbone has not",
        f"{FIT} --set layers=2,99",
        ("backbone", "pinakes/tiny_conv", "99"),
    ),
    # runs
    Case("no run", f"evaluate parts --data '{DATA}'", ("parts", "holds no run", "folder written by fit")),
    Case(
        "damaged weights",
        f"evaluate RUN --data '{DATA}'",
        ("weights.safetensors", "damaged", "fit again"),
        flip_a_weight,
    ),
    Case(
        "cut weights",
        "predict RUN parts/test --out out",
        ("weights.safetensors", "damaged", "fit again"),
        write_bytes("run/weights.safetensors", b"\x08"),
    ),
    Case(
        "missing weights",
        f"evaluate RUN --data '{DATA}'",
        ("weights.safetensors", "missing", "fit again"),
        remove("run/weights.safetensors"),
    ),
    Case(
        "damaged description",
        f"evaluate RUN --data '{DATA}'",
        ("method.json", "damaged", "fit again"),
        write_bytes("run/method.json", b"{"),
    ),
    Case(
        "run of a method that is not there",
        f"evaluate RUN --data '{DATA}'",
        ("patchcores", "did you mean 'patchcore'?"),
        change_run(method="patchcores"),
    ),
    Case(
        "run folder of another method",
        f"fit patchcore --data '{DATA}' --out run",
        ("run", "'another'", "--out"),
        change_run(method="another"),
    ),
    Case(
        "run folder that is taken", f"fit patchcore --data '{DATA}' --out run", ("run", "--resume", "--out")
    ),
    # output
    Case(
        "fit to a file", f"fit patchcore --data '{DATA}' --out parts/train/good/0.png/x", ("0.png/x", "--out")
    ),
    Case(
        "compare to a file",
        f"compare anomaly --data '{DATA}' --out parts/train/good/0.png",
        ("0.png", "cannot be written", "--out"),
    ),
    Case("predict to a file", "predict RUN parts/test --out parts/test/good/0.png", ("0.png", "--out")),
    Case("data to a file", "data parts --out parts/test/good/0.png", ("0.png", "cannot be written", "--out")),
    # inputs of predict
    Case("missing input", "predict RUN parts/test nothing.png --out out", ("nothing.png", "check the path")),
    Case(
        "input without images",
        "predict RUN empty --out out",
        ("empty", "give a folder with images"),
        lambda folder: (folder / "empty").mkdir(),
    ),
    Case(
        "unreadable input",
        "predict RUN parts/test --out out",
        ("parts/test/good/9.png", "--skip-bad"),
        write_bytes("parts/test/good/9.png", b"hello"),
    ),
    # words
    Case("misspelt command", "evalute RUN", ("'evalute'", "'evaluate'")),
    Case("misspelt flag", f"{FIT} --epoch 3", ("--epoch", "'--epochs'")),
    Case(
        "misspelt method",
        f"fit patchcor --data '{DATA}' --out out",
        ("'patchcor'", "did you mean 'patchcore'?"),
    ),
    Case(
        "misspelt task",
        f"compare anomoly --data '{DATA}' --out out",
        ("'anomoly'", "did you mean 'anomaly'?"),
    ),
    Case(
        "misspelt method among several",
        f"compare anomaly --data '{DATA}' --methods patchcore,pathcore --out out",
        ("'pathcore'", "did you mean 'patchcore'?"),
    ),
    Case("no seeds", f"compare anomaly --data '{DATA}' --seeds 0 --out out", ("--seeds", "--help")),
    Case(
        "compared option out of range",
        f"compare anomaly --data '{DATA}' --set patchcore.sigma=-1 --out out",
        ("patchcore", "sigma", "0 or more"),
    ),
    Case(
        "compare on data without a test",
        "compare anomaly --data flat --out out",
        ("flat", "test"),
        lambda folder: write_image(folder / "flat/1.png"),
    ),
    Case("missing argument", "fit", ("SLUG", "--help")),
    Case("missing data", "fit patchcore --out out", ("--data", "--help")),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input_gets_one_line_and_writes_nothing(
    case: Case, pinakes_command: Command, parts: Path, fitted: Path
) -> None:
    folder = parts.parent
    (folder / "run").mkdir()
    for path in fitted.iterdir():
        (folder / "run" / path.name).write_bytes(path.read_bytes())
    case.spoil(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    result = pinakes_command(case.line.replace("RUN", "run"))
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert [words for words in case.words if words not in result.stderr] == [], result.stderr
    assert "Traceback" not in result.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before
    assert not (folder / "out").exists()


@pytest.mark.parametrize("line", [FIT_PARTS, "evaluate RUN --data parts", "data parts"])
def test_skip_bad_leaves_bad_files_out_and_lists_them(
    line: str, pinakes_command: Command, parts: Path, fitted: Path
) -> None:
    write_bytes("parts/train/good/9.png", b"hello")(parts.parent)
    write_bytes("parts/train/good/bomb.png", bomb())(parts.parent)
    cut(parts.parent)
    result = pinakes_command(f"{line.replace('RUN', str(fitted))} --skip-bad")
    assert result.exit_code == 0, result.output
    for name in ("9.png", "bomb.png", "1.png"):
        assert f"parts/train/good/{name}" in result.stdout


def test_weights_that_cannot_be_downloaded(
    pinakes_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = pinakes_command(f"{FIT} --set backbone=timm/resnet18")
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    for words in ("timm/resnet18", str(tmp_path / "hub"), "@FILE.safetensors", "pinakes/tiny_conv"):
        assert words in result.stderr
    assert not (tmp_path / "out").exists()
