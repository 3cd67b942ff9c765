"""Shapes stated in signatures are checked at run time in every test."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests import typecheck

hook = install_import_hook(["pinakes.papers", "pinakes.nn", "pinakes.tasks"], f"{typecheck.__name__}.check")


@pytest.fixture(autouse=True)
def _one_thread_each() -> None:
    import torch

    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of optional real data; tests that ask for it are skipped where there is none."""
    folder = os.environ.get("PINAKES_TEST_DATA")
    if not folder:
        pytest.skip("PINAKES_TEST_DATA names no folder of real data")
    return Path(folder)
