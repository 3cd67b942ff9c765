import json
from pathlib import Path

import pytest

import pinakes
from pinakes.catalogue import papers
from pinakes.errors import UserError
from pinakes.lab.subject import subject
from tests.lab.shelf_of_toys import toys

__all__ = ["toys"]

pytestmark = pytest.mark.usefixtures("toys")


def test_a_task_has_all_its_papers() -> None:
    found = subject("anomaly")
    assert (found.task, found.omission) == ("anomaly", "")
    assert list(found.papers) == papers(task="anomaly")


def test_a_shelf_has_the_papers_of_the_task_that_most_have_and_says_which_are_left_out() -> None:
    found = subject("mixed")
    assert found.task == "ood"
    assert [paper.slug for paper in found.papers] == ["first-ood", "second-ood"]
    assert found.omission == "mixed is compared by the task ood; left out: odd-one (anomaly)"


def test_of_a_shelf_one_can_name_papers_of_the_other_task() -> None:
    assert subject("mixed", "odd-one").task == "anomaly"


@pytest.mark.parametrize(
    ("name", "methods", "message"),
    [
        ("mixd", "all", "no task or shelf is called 'mixd'; did you mean 'mixed'"),
        ("anomoly", "all", "did you mean 'anomaly'"),
        ("mixed", "odd-one,first-ood", "first-ood is a method for the task 'ood', odd-one for 'anomaly'"),
        ("mixed", "toy-noise", "toy-noise is on the shelf 'toys', not on 'mixed'"),
        ("ood", "toy-noise", "toy-noise is a method for the task 'anomaly', not for 'ood'"),
        ("mixed", [], "none are given"),
    ],
)
def test_what_cannot_be_compared_is_named(name: str, methods: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        subject(name, methods)


def test_comparing_a_shelf_repeats_what_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    board = pinakes.compare(
        "toys",
        "textures?size=32&n=8",
        "toy-contrast,toy-taught",
        seeds=1,
        device="cpu",
        options={"all": {"power": 2.0}, "toy-taught": {"power": 3.0}},
    )
    assert (board.task, str(board.folder)) == ("anomaly", "runs/toys-textures")
    described = json.loads((tmp_path / "runs/toys-textures/comparison.json").read_text())
    assert described["command"].startswith("pinakes compare toys --data")
    assert "--set all.power=2.0 --set toy-taught.power=3.0" in described["command"]
    assert described["call"].startswith("pinakes.compare('toys', ")
    used = {
        slug: json.loads((tmp_path / f"runs/toys-textures/cells/{slug}/seed-0/cell.json").read_text())
        for slug in ("toy-contrast", "toy-taught")
    }
    assert {slug: cell["options"]["power"] for slug, cell in used.items()} == {
        "toy-contrast": 2.0,
        "toy-taught": 3.0,
    }


def test_an_option_for_all_that_none_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no compared method has an option 'powr'; did you mean 'power'"):
        pinakes.compare("toys", "textures", "toy-contrast", options={"all": {"powr": 1}}, out=tmp_path)
