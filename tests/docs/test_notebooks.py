from pathlib import Path

import pytest

pytest.importorskip("nbformat", reason="the extra docs is not installed: pip install -e '.[docs]'")
pytest.importorskip("nbclient", reason="the extra docs is not installed: pip install -e '.[docs]'")

import nbformat

from docs.notebooks import EXAMPLES, as_markdown, execute, shown


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_did_when_it_was_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    kept = nbformat.read(path, as_version=4)
    assert shown(execute(path)) == shown(kept), "run python -m docs.notebooks, and look at what changed"


def test_a_notebook_becomes_a_page_with_its_code_and_what_it_shows() -> None:
    page = as_markdown(EXAMPLES / "a-first-look.ipynb")
    assert page.startswith("# A first look")
    assert "```python\nimport pinakes" in page
    assert "<table>" in page
