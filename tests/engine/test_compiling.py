"""Translated networks answer as before, and methods stay what they are."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from pinakes.engine.compiling import compiled
from tests.engine.toy import Toy, fitted, same, toy_data


class Counted:
    """A backend of `torch.compile` that runs what it is given, and counts how often it was asked to translate."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: list[Any]) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend() -> Any:
    torch.compiler.reset()
    yield Counted()
    torch.compiler.reset()


def test_networks_are_translated_and_learn_the_same(backend: Counted) -> None:
    method = compiled(Toy(dropout=0.0), backend=backend).fit(toy_data(), epochs=1)
    assert backend.graphs
    plain = Toy(dropout=0.0).fit(toy_data(), epochs=1)
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(method.state_dict()[name], weight)


def test_a_fitted_method_is_translated_at_once(backend: Counted) -> None:
    method = fitted()
    image = torch.rand(2, *toy_data().train[0]["image"].shape)
    before = method.predict(image)["score"]
    assert torch.allclose(compiled(method, backend=backend).predict(image)["score"], before)
    assert backend.graphs


def test_it_is_copied_pickled_and_saved_as_any_other(tmp_path: Path) -> None:
    method = compiled(Toy(), backend="eager").fit(toy_data(), epochs=1)
    assert same(method, copy.deepcopy(method))
    assert same(method, pickle.loads(pickle.dumps(method)))
    method.save(tmp_path / "run")
    plain = Toy().prepare(method.info)
    plain.load_state_dict(method.state_dict())
    assert same(method, plain)


def test_a_copy_builds_its_own_networks() -> None:
    method = compiled(Toy(), backend="eager")
    copied = copy.deepcopy(method)
    copied.fit(toy_data(), epochs=1)
    assert copied.is_built
    assert not method.is_built
