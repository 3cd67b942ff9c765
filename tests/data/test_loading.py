import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pinakes.data import TaskData, load_data
from pinakes.data.sources import SOURCES, loader
from pinakes.errors import UserError


def test_every_source_can_be_imported() -> None:
    assert all(callable(loader(name)) for name in SOURCES)


def test_a_path_is_recognised_and_the_spec_names_its_source(parts: Path, pets: Path) -> None:
    assert load_data(parts).spec == f"mvtec:{parts}"
    assert load_data(str(pets)).spec == f"folder:{pets}"


def test_the_spec_of_loaded_data_loads_the_same(pets: Path) -> None:
    first = load_data(pets, size=(8, 10), seed=4)
    assert first.spec == f"folder:{pets}?size=8x10&seed=4"
    assert load_data(first.spec).fingerprint() == first.fingerprint()


def test_the_size_asked_for_goes_before_that_of_the_spec() -> None:
    data = load_data("textures?size=32&n=2", size=16)
    assert data.size == (16, 16)
    assert data.spec == "textures?size=16&n=2"


def test_the_seed_of_the_spec_goes_before_that_asked_for(pets: Path) -> None:
    data = load_data(f"folder:{pets}?seed=3", seed=8)
    assert "seed 3" in data.layout


def test_options_may_follow_a_bare_path(pets: Path) -> None:
    assert load_data(f"{pets}?normal=cat").classes == ("normal", "anomalous")


def test_data_already_loaded_is_returned() -> None:
    data = load_data("textures?n=2")
    assert load_data(data) is data


def test_the_task_arranges_the_data() -> None:
    class Renaming:
        name = "renaming"
        options: dict[str, str] = {}

        def arrange(self, data: TaskData) -> TaskData:
            return replace(data, layout="arranged")

    assert load_data("textures?n=2", task=Renaming()).layout == "arranged"  # type: ignore[arg-type]


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="no task is called 'anomly'; did you mean 'anomaly'"):
        load_data("textures?n=2", task="anomly")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mvtek:parts", "no kind of data is called 'mvtek'; did you mean 'mvtec'"),
        ("digit", "neither a file or folder nor a built-in set; did you mean 'digits'"),
        ("no/such/folder", "no/such/folder: no such file or folder; check the path"),
        ("mvtec:no/such/folder", "no/such/folder: no such file or folder; check the path"),
        ("mvtec:", "names no path"),
        ("folder", "write SOURCE:PATH, or ./folder"),
        ("digits:here", "'digits' is a built-in set and takes no path"),
        ("textures:here", "takes no path"),
        ("textures?materiel=brick", "no option 'materiel'; did you mean 'material'"),
        ("textures?material=brik", "'material' cannot be 'brik'; did you mean 'brick'"),
        ("textures?n=1", "'n' must be from 2"),
        ("textures?channels=2", "'channels' must be 3 .colour. or 1 .grey., got '2'"),
        ("textures?seed=-1", "'seed' must not be negative"),
        ("textures?labels=material&material=brick", "needs several materials; leave out material=brick"),
        ("digits?n=3", "'n' must be at least 10"),
        ("", "spec is empty"),
    ],
)
def test_a_spec_that_cannot_be_understood_says_what_would_be(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_data(spec)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, pinakes.data, pinakes.data.spec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
