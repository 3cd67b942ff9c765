import importlib
import json
import re
from pathlib import Path

import pytest

from pinakes.catalogue import find, papers
from pinakes.errors import UserError
from pinakes.lab.record import ClaimRecord, Record
from pinakes.lab.trial import Budget, Pair, Trial
from pinakes.lab.verdict import judge

pytest.importorskip("latex2mathml", reason="the extra docs is not installed: pip install -e '.[docs]'")

from docs.pages import PICTURES, catalogue_pages
from docs.papers import prose, read_paper
from docs.verdicts import NOT_MEASURED, chart, read_verdicts, views

PICTURE_BYTES = 60_000


def measured(pairs: list[tuple[float, float]], **changes: object) -> ClaimRecord:
    trial = Trial(
        "AUROC",
        tuple(Pair(seed, *pair) for seed, pair in enumerate(pairs)),
        data="textures",
        budget=Budget("steps", 9, 4),
    )
    found = judge(trial.pairs, higher_is_better=True)
    stated = {"name": "it_is_better", "text": "It is better.", "where": "table 1", "about": ""}
    return ClaimRecord(
        **{**stated, **changes},  # type: ignore[arg-type]  # each test changes what it is about
        verdict=found.word,
        effect=found.effect,
        low=found.low,
        high=found.high,
        trial=trial,
    )


@pytest.mark.parametrize("slug", [paper.slug for paper in papers()])
def test_a_paper_states_its_idea_and_shows_every_equation_once(slug: str) -> None:
    text = read_paper(find(slug))
    assert text.sections["idea"]
    assert text.names
    shown = "".join(each for block in text.sections["equations"] for each in block.equations)
    stated = getattr(importlib.import_module(find(slug).module), "EQUATIONS", ())
    assert shown.count('<div class="equation">') == len(stated)


def test_a_page_names_the_command_that_uses_a_run_of_its_task() -> None:
    pages = catalogue_pages()
    for page, command in {
        "diffusion/ddpm": "pinakes sample runs/ddpm --out samples",
        "diffusion/repaint": "pinakes edit runs/repaint photo.png --mask mask.png --out edited.png",
        "anomaly/patchcore": "pinakes predict runs/patchcore photo.png",
    }.items():
        assert f"    {command}\n" in pages[f"papers/{page}.md"]


def test_text_between_backticks_is_code_and_the_rest_is_taken_as_it_is() -> None:
    assert prose("`a < b` and s* < m*") == "<code>a &lt; b</code> and s* &lt; m*"


def test_the_chart_has_a_point_for_every_seed_of_both_sides() -> None:
    claim = measured([(0.9, 0.8), (0.93, 0.82), (0.91, 0.85)])
    drawn = chart(claim, "patchcore")
    assert len(re.findall(r'<circle class="baseline"', drawn)) == 3
    assert len(re.findall(r'<circle class="ours"', drawn)) == 6
    assert "seed 2: 0.910" in drawn
    assert "verdict: holds" in drawn


def test_a_chart_of_one_seed_has_no_interval() -> None:
    drawn = chart(measured([(0.5, 0.5)]), "patchcore")
    assert "undecided" in drawn
    assert 'class="interval"' not in drawn


def test_a_claim_without_a_record_is_not_measured_yet() -> None:
    paper = find("patchcore")
    for view in views(paper, read_paper(paper).claims, None):
        assert view.verdict == NOT_MEASURED
        assert view.effect == "–"


def test_a_reversed_verdict_is_shown_and_marked_where_the_code_has_changed() -> None:
    paper = find("patchcore")
    stated = read_paper(paper).claims[0]
    claim = measured([(0.5, 0.8), (0.52, 0.83), (0.51, 0.8)], name=stated.name, text=stated.text)
    record = Record(paper.slug, paper.title, paper.link, (claim,), seeds=3, code="of an earlier version")
    view = views(paper, [stated], record)[0]
    assert view.verdict == "reversed"
    assert view.effect.startswith("−0.3")
    assert view.stale


def test_verdicts_that_were_edited_by_hand_are_refused(tmp_path: Path) -> None:
    paper = find("patchcore")
    path = Record(paper.slug, paper.title, paper.link, (measured([(0.5, 0.8), (0.5, 0.9)]),), seeds=2).save(
        tmp_path
    )
    assert list(read_verdicts(tmp_path)) == ["patchcore"]
    values = json.loads(path.read_text())
    values["claims"][0]["verdict"] = "holds"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"patchcore\.json"):
        read_verdicts(tmp_path)


def test_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in PICTURES.glob("*.webp")}
    assert {name: size for name, size in sizes.items() if size > PICTURE_BYTES} == {}
