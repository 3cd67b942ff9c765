"""Puts the shelf of papers with claims beside the others."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import pinakes.papers
from pinakes.catalogue import shelves


@pytest.fixture
def claiming(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A catalogue with the papers that make claims, and a cache and a working folder of their own."""
    folder = Path(__file__).parent / "shelves_with_claims"
    monkeypatch.setattr(pinakes.papers, "__path__", [*pinakes.papers.__path__, str(folder)])
    monkeypatch.setenv("PINAKES_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shelves.cache_clear()
    yield tmp_path
    shelves.cache_clear()
