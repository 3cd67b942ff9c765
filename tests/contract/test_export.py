"""Every method is exported as a graph that answers as the method does, or says why it cannot be."""

from pathlib import Path

import pytest

from pinakes.catalogue import Paper
from pinakes.engine import export
from pinakes.errors import UserError
from tests.contract.test_methods import METHODS, fitted

FORMATS = pytest.mark.parametrize("to", list(export.SUFFIXES))


@pytest.mark.slow
@METHODS
@FORMATS
def test_the_exported_graph_answers_as_the_method_does(paper: Paper, to: str, tmp_path: Path) -> None:
    for package in export.NEEDS[to]:
        pytest.importorskip(package)
    method, file = fitted(paper.slug), tmp_path / "graph"
    if method.export_obstacle:
        with pytest.raises(UserError, match="cannot be exported"):
            method.export(file, to=to)
        return
    found = method.export(file, to=to)
    answered = method.predict(next(export.fresh_images(method.info)))
    words = {name for name, stated in method.task.prediction.items() if stated.dtype is str}
    assert {each.name for each in found.outputs} == set(answered) & set(method.task.prediction) - words
    assert all(each.difference <= export.TOLERANCE for each in found.outputs)
