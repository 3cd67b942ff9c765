import json
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

import pinakes.papers
from pinakes import catalogue
from pinakes.catalogue import Paper
from pinakes.cli import completion
from pinakes.cli.entry import read_options
from tests.cli.conftest import Command

PAPERS = catalogue.papers()


def test_list_names_every_method(pinakes_command: Command) -> None:
    result = pinakes_command("list")
    assert result.exit_code == 0
    assert all(paper.slug in result.stdout for paper in PAPERS)


def test_list_as_json_holds_the_catalogue(pinakes_command: Command) -> None:
    entries = json.loads(pinakes_command("list --json").stdout)
    assert [entry["slug"] for entry in entries] == [paper.slug for paper in PAPERS]
    assert entries[0]["url"] == PAPERS[0].url


def test_list_takes_a_shelf_and_a_task(pinakes_command: Command) -> None:
    entries = json.loads(pinakes_command("list --shelf anomaly --task anomaly --json").stdout)
    assert {(entry["shelf"], entry["task"]) for entry in entries} == {("anomaly", "anomaly")}


@pytest.mark.parametrize("option", ["--shelf", "--task"])
def test_misspelt_shelf_or_task_is_suggested(pinakes_command: Command, option: str) -> None:
    result = pinakes_command(f"list {option} anomoly")
    assert result.exit_code == 2
    assert "did you mean 'anomaly'?" in result.stderr


def test_search_finds_by_words(pinakes_command: Command) -> None:
    found = json.loads(pinakes_command("search coreset patch --json").stdout)
    assert [entry["slug"] for entry in found] == ["patchcore"]


def test_search_without_a_hit_says_so(pinakes_command: Command) -> None:
    result = pinakes_command("search zzzz")
    assert (result.exit_code, result.stdout.count("\n")) == (0, 1)
    assert "zzzz" in result.stdout
    assert json.loads(pinakes_command("search zzzz --json").stdout) == []


@pytest.mark.parametrize("paper", PAPERS, ids=[paper.slug for paper in PAPERS])
def test_show_gives_idea_options_and_use(pinakes_command: Command, paper: Paper) -> None:
    text = " ".join(pinakes_command(f"show {paper.slug}").stdout.split())
    assert all(words in text for words in (paper.title, paper.idea, paper.url, f"pinakes fit {paper.slug}"))
    assert all(option.name in text for option in read_options(paper))


def test_show_as_json(pinakes_command: Command) -> None:
    entry = json.loads(pinakes_command("show patchcore --json").stdout)
    ratio = next(option for option in entry["options"] if option["name"] == "coreset_ratio")
    assert (ratio["type"], ratio["default"]) == ("float", "0.1")
    assert "patches" in ratio["about"]


def test_show_suggests_the_nearest_method(pinakes_command: Command) -> None:
    result = pinakes_command("show patchcor")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: no method is called 'patchcor'; did you mean 'patchcore'?\n"


@pytest.mark.parametrize("paper", PAPERS, ids=[paper.slug for paper in PAPERS])
def test_options_read_from_source_are_those_of_the_class(paper: Paper) -> None:
    method = paper.load()
    read = {option.name: option for option in read_options(paper)}
    assert list(read) == list(method.option_defaults())
    assert all(option.about for option in read.values())
    assert set(read) <= set(get_type_hints(method.__init__))


def test_help_list_show_and_completion_import_no_torch() -> None:
    lines = [["--help"], ["list"], ["search", "coreset"], ["show", "patchcore"], ["fit", "--help"]]
    code = f"""
import sys
from typer.testing import CliRunner
from pinakes.cli import completion
from pinakes.cli.app import app
for line in {lines!r}:
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
assert completion.settings_of_methods("patchcore.s") and completion.tasks("") and completion.specs("t")
heavy = {{"torch", "lightning", "numpy", "timm", "PIL", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_completion_offers_methods_tasks_shelves_and_sets() -> None:
    assert [slug for slug, _ in completion.slugs("patch")] == ["patchcore"]
    assert [word for word, _ in completion.slug_list("al")] == ["all"]
    assert [word for word, _ in completion.slug_list("x,patch")] == ["x,patchcore"]
    assert completion.tasks("an") == ["anomaly"]
    assert [name for name, _ in completion.shelves("an")] == ["anomaly"]
    assert completion.specs("text") == ["textures"]


def test_completion_offers_options_of_a_method() -> None:
    assert [word for word, _ in completion.settings_of_methods("patchc")] == ["patchcore."]
    assert [word for word, _ in completion.settings_of_methods("patchcore.sig")] == ["patchcore.sigma="]


def test_completion_offers_options_for_all_methods() -> None:
    assert [word for word, _ in completion.settings_of_methods("al")] == ["all."]
    assert [word for word, _ in completion.settings_of_methods("all.coreset")] == ["all.coreset_ratio="]


def test_completion_offers_what_can_be_compared() -> None:
    offered = [name for name, _ in completion.subjects("")]
    assert {paper.task for paper in PAPERS} | {paper.shelf for paper in PAPERS} == set(offered)
    assert len(offered) == len(set(offered))


def test_completion_offers_methods_that_distil() -> None:
    assert "kd" in [slug for slug, _ in completion.distillers("k")]
    assert [word for word, _ in completion.distillers("kd,dk")] == ["kd,dkd"]
    assert completion.distillers("patchcore") == []
    assert [word for word, _ in completion.distillers("al")] == ["all"]


SHARING = """
from pinakes.tasks.base import Task

Mode = Literal["a", "b"]
WIDTH = 4

class Base:
    \"\"\"A base.

    Args:
        width: How wide.
        mode: Which way.
        depth: How deep.
    \"\"\"
    def __init__(self, width: int = WIDTH, mode: Mode = "a", depth: int = 1) -> None: ...

class Middle(Base):
    \"\"\"Adds nothing.\"\"\"

class Paper(Middle):
    \"\"\"A paper.

    Args:
        alpha: A weight.
        depth: How deep here.
    \"\"\"
    def __init__(self, alpha: float = 1.0, depth: int = 2, **shared: Any) -> None: ...
"""


def test_options_that_a_method_shares_are_read_from_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "sharing"
    shelf.mkdir()
    (shelf / "__init__.py").touch()
    (shelf / "paper.py").write_text(SHARING)
    monkeypatch.setattr(pinakes.papers, "__path__", [*pinakes.papers.__path__, str(tmp_path)])
    paper = Paper("x", "T", "A", "Nowhere 2020", "arXiv:1", "anomaly", "paper:Paper", "", shelf="sharing")
    found = [(each.name, each.type, each.default, each.about) for each in read_options(paper)]
    assert found == [
        ("alpha", "float", "1.0", "A weight."),
        ("depth", "int", "2", "How deep here."),
        ("width", "int", "4", "How wide."),
        ("mode", "Literal['a', 'b']", "'a'", "Which way."),
    ]


def test_shell_asks_for_completion() -> None:
    environment = {
        "_PINAKES_COMPLETE": "complete_bash",
        "COMP_WORDS": "pinakes show patch",
        "COMP_CWORD": "2",
    }
    found = subprocess.run(
        [sys.executable, "-c", "from pinakes.cli import main; main()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout.split() == ["patchcore"]
