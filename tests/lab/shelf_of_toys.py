"""Puts the shelf of toys beside the papers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import pinakes.papers
from pinakes.catalogue import shelves


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A catalogue with the toys."""
    monkeypatch.setattr(
        pinakes.papers, "__path__", [*pinakes.papers.__path__, str(Path(__file__).parent / "shelves")]
    )
    shelves.cache_clear()
    yield
    shelves.cache_clear()
