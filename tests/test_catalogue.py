"""The catalogue finds, searches and suggests, without torch."""

import subprocess
import sys

import pytest

import pinakes
from pinakes.catalogue import Paper, Shelf, papers, shelves


def test_find_returns_the_paper_with_its_shelf() -> None:
    paper = pinakes.find("patchcore")
    assert paper.shelf == "anomaly"
    assert paper.year == 2022
    assert paper.url == "https://arxiv.org/abs/2106.08265"
    assert paper.load().__name__ == "PatchCore"


@pytest.mark.parametrize("call", [pinakes.find, pinakes.create])
def test_a_misspelt_method_suggests_the_nearest(call: object) -> None:
    with pytest.raises(pinakes.UserError, match="did you mean 'patchcore'"):
        call("patchcoer")  # type: ignore[operator]


def test_a_misspelt_option_suggests_the_nearest() -> None:
    with pytest.raises(pinakes.UserError, match="did you mean 'coreset_ratio'"):
        pinakes.create("patchcore", coresetratio=0.1)


def test_a_misspelt_shelf_or_task_suggests_the_nearest() -> None:
    with pytest.raises(pinakes.UserError, match="did you mean 'anomaly'"):
        papers(shelf="anomoly")
    with pytest.raises(pinakes.UserError, match="did you mean 'anomaly'"):
        papers(task="anomoly")


def test_search_wants_every_word_and_puts_the_best_match_first() -> None:
    assert pinakes.search("total RECALL")[0].slug == "patchcore"
    assert pinakes.search("patchcore zebra") == []


def test_list_is_all_papers() -> None:
    assert pinakes.list() == papers()
    assert {paper.shelf for paper in papers()} == set(shelves())


def test_every_entry_is_whole() -> None:
    for paper in papers():
        assert paper.slug == paper.slug.lower()
        assert " " not in paper.slug
        assert 1950 < paper.year < 2100
        assert paper.url.startswith("https://")
        assert paper.idea.endswith(".")


def test_a_shelf_puts_its_name_on_its_papers() -> None:
    shelf = Shelf("s", "S", [Paper("a", "A", "B et al.", "CVPR 2020", "arXiv:1", "anomaly", "a:A", "Idea.")])
    assert shelf.papers[0].module == "pinakes.papers.s.a"


def test_the_front_door_and_the_catalogue_import_no_torch() -> None:
    code = "import sys, pinakes; pinakes.list(); pinakes.search('x'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
