"""Shapes stated in signatures are checked at run time in every test."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

from tests import typecheck

hook = install_import_hook(["pinakes.papers", "pinakes.nn", "pinakes.tasks"], f"{typecheck.__name__}.check")

if "PINAKES_CACHE" not in os.environ:
    # what tests keep is not for the user's cache, and what that holds not for tests
    os.environ["PINAKES_CACHE"] = tempfile.mkdtemp(prefix="pinakes-tests-")
    atexit.register(shutil.rmtree, os.environ["PINAKES_CACHE"], ignore_errors=True)

# small tensors gain nothing from more, and lose much where other work shares the cores
torch.set_num_threads(1)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so a shell starts what runs in its background; the tests of Ctrl-C need it heard
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def test_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of optional real data sets, unpacked; tests that ask for it are skipped where there is none."""
    given = os.environ.get("PINAKES_TEST_DATA")
    if not given:
        pytest.skip("PINAKES_TEST_DATA names no folder of real data")
    unpacked = tmp_path_factory.mktemp("real")
    for path in Path(given).iterdir():
        if path.suffix == ".zip":
            shutil.unpack_archive(path, unpacked / path.stem)
        elif path.is_dir():
            (unpacked / path.name).symlink_to(path.resolve())
    return unpacked
