import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import detection

from pinakes import collections
from pinakes.collections.detectors import Found, ask, load_detector
from pinakes.collections.exclude import check_request
from pinakes.errors import UserError
from tests.report.test_page import Page


def redness(images: list[Tensor]) -> list[dict[str, Any]]:
    """Finds what is red, on the left half; says nothing of what has none."""
    answers = []
    for image in images:
        score = float(image[0].mean() - image[1].mean())
        box = [0.0, 0.0, image.shape[2] / 2, float(image.shape[1])]
        answers.append(
            {"scores": [score], "boxes": [box], "labels": ["red"]} if score > 0 else {"scores": []}
        )
    return answers


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Images of more and less red, in two classes and of several sizes."""
    root = tmp_path / "colours"
    for index, red in enumerate((255, 200, 120, 60, 0, 0)):
        path = root / ("warm" if index < 3 else "cold") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24 + index, 40), (red, 0, 0)).save(path)
    return root


def test_images_in_which_something_is_found_are_left_out_and_the_source_stays(
    colours: Path, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in colours.rglob("*.png")}
    found, _ = collections.exclude(colours, redness, tmp_path / "out", threshold=0.4, batch_size=4)
    assert [each.path for each in found.dropped] == ["warm/0.png", "warm/1.png", "warm/2.png"]
    assert found.dropped[1].found == (Found(pytest.approx(200 / 255), "red", (0.0, 0.0, 12.5, 40.0)),)
    kept = sorted((tmp_path / "out/images").rglob("*.png"))
    assert [path.relative_to(tmp_path / "out/images").as_posix() for path in kept] == [
        "cold/3.png",
        "cold/4.png",
        "cold/5.png",
    ]
    assert all(path.is_symlink() for path in kept)
    assert (tmp_path / "out/kept.txt").read_text().splitlines() == ["cold/3.png", "cold/4.png", "cold/5.png"]
    assert {path: path.read_bytes() for path in colours.rglob("*.png")} == before


def test_copies_are_files_of_their_own_and_a_list_makes_none(colours: Path, tmp_path: Path) -> None:
    collections.exclude(colours, redness, tmp_path / "copy", how="copy")
    copy = tmp_path / "copy/images/cold/3.png"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (colours / "cold/3.png").read_bytes()
    found, _ = collections.exclude(colours, redness, tmp_path / "list", how="list")
    assert found.folder is None
    assert sorted(path.name for path in (tmp_path / "list").iterdir()) == [
        "dropped.txt",
        "exclude.html",
        "exclude.json",
        "kept.txt",
    ]


def test_lists_of_a_person_overrule_the_detector(colours: Path, tmp_path: Path) -> None:
    keep, drop = tmp_path / "keep.txt", tmp_path / "drop.txt"
    keep.write_text("warm/1.png\n\ncold/4.png\n")
    drop.write_text("cold/5.png")
    found, _ = collections.exclude(
        colours, redness, tmp_path / "out", threshold=0.4, how="list", keep=keep, drop=drop
    )
    assert [(each.path, each.by_hand) for each in found.dropped] == [
        ("cold/5.png", True),
        ("warm/0.png", False),
        ("warm/2.png", False),
    ]
    assert found.sentences()[-1] == "By hand 1 of them is left out and 1 other kept."
    drop.write_text("warm/1.png")
    with pytest.raises(UserError, match=r"warm/1\.png: is to be kept and to be left out"):
        collections.exclude(colours, redness, tmp_path / "out", how="list", keep=keep, drop=drop)
    keep.write_text("nowhere.png")
    with pytest.raises(UserError, match=r"keep\.txt: .* has no image 'nowhere\.png'"):
        collections.exclude(colours, redness, tmp_path / "out", how="list", keep=keep)


def test_page_and_json_say_what_was_left_out_the_least_certain_first(colours: Path, tmp_path: Path) -> None:
    found, _ = collections.exclude(colours, redness, tmp_path / "out", threshold=0.4)
    values = json.loads(found.file.read_text())
    assert (values["images"], values["kept"]) == (6, 3)
    assert values["classes"] == {"warm": {"images": 3, "dropped": 3}, "cold": {"images": 3, "dropped": 0}}
    assert [each["path"] for each in values["found_in_kept"]] == ["cold/3.png"]
    page = Page(found.page.read_text())
    assert [each["alt"] for each in page.all("img")] == [
        "warm/2.png",
        "warm/1.png",
        "warm/0.png",
        "cold/3.png",
    ]
    assert all((each["src"] or "").startswith("data:") for each in page.all("img"))
    assert not page.all("script")


def test_a_bad_file_is_left_out_if_wanted(colours: Path, tmp_path: Path) -> None:
    (colours / "warm/bad.png").write_text("no image")
    with pytest.raises(UserError, match=r"bad\.png"):
        collections.exclude(colours, redness, tmp_path / "out")
    _, images = collections.exclude(colours, redness, tmp_path / "out", skip_bad=True)
    assert [problem.path.name for problem in images.skipped] == ["bad.png"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0.0}, "threshold: expected a score above 0"),
        ({"how": "lnk"}, "how: 'lnk' is no way to keep images; did you mean 'link'"),
        ({"lists": [Path("nowhere.txt")]}, "nowhere.txt: no such file"),
    ],
)
def test_requests_that_make_no_sense_are_refused(
    options: dict[str, Any], words: str, colours: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        check_request(str(colours), tmp_path / "out", **options)


def test_a_folder_inside_the_source_or_with_images_is_refused(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would become part of it"):
        check_request(str(colours), colours / "out")
    (tmp_path / "out/images/x").mkdir(parents=True)
    with pytest.raises(UserError, match="already holds images"):
        check_request(str(colours), tmp_path / "out")


def test_images_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no files of their own"):
        collections.exclude("digits?n=10", redness, tmp_path / "out")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "asked of 1 images and answered 0"),
        ([[0.5]], "must answer each image with a dict that holds 'scores'"),
        ([{"scores": [0.5], "boxes": [[0, 0, 1, 1]] * 2}], "gave 1 scores and 2 boxes"),
        ([{"scores": [1.5]}], "scores from 0 to 1"),
        ([{"scores": [float("nan")]}], "scores from 0 to 1"),
    ],
)
def test_a_detector_that_answers_otherwise_is_an_error_that_names_it(answer: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"detector: mine .*{words}"):
        ask(lambda _: answer, [torch.rand(3, 4, 4)], "mine")


def test_tensors_of_a_detector_are_read_the_surest_first() -> None:
    answer = {"scores": torch.tensor([0.25, 0.5]), "boxes": torch.tensor([[0, 0, 1, 1], [0, 0, 2, 2]])}
    (found,) = ask(lambda _: [answer], [torch.rand(3, 4, 4)], "mine")
    assert found == [Found(0.5, "", (0, 0, 2, 2)), Found(0.25, "", (0, 0, 1, 1))]


def test_a_function_of_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_detector_here.py").write_text(
        "def find(images):\n    return [{'scores': []}] * len(images)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_detector("my_detector_here:find")([torch.rand(3, 4, 4)]) == [{"scores": []}]
    for name, words in (
        ("my_detector_here:other", "has no function 'other'"),
        ("nowhere_at_all:find", "nowhere_at_all cannot be imported"),
        ("faces", "'faces' is none"),
    ):
        with pytest.raises(UserError, match=words):
            load_detector(name)


def test_things_of_coco_are_picked_from_what_torchvision_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Detects(torch.nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])
            return [
                {"scores": torch.tensor([0.9, 0.8, 0.7]), "labels": torch.tensor([17, 1, 18]), "boxes": boxes}
                for _ in images
            ]

    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn_v2", lambda **_: Detects())
    (found,) = ask(load_detector("coco:person, dog"), [torch.rand(3, 8, 8)], "coco")
    assert [(each.label, each.score) for each in found] == [
        ("person", pytest.approx(0.8)),
        ("dog", pytest.approx(0.7)),
    ]
    with pytest.raises(UserError, match="COCO has no 'persn'; did you mean 'person'"):
        load_detector("coco:persn")


def test_weights_that_cannot_be_had_are_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(**_: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn_v2", offline)
    with pytest.raises(UserError, match=r"cannot be had .*put the file there from https.*MODULE:FUNCTION"):
        load_detector("coco:person")
