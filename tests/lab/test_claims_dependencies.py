"""Which code a verdict rests on."""

import ast
import shutil
from pathlib import Path

import pytest

import pinakes
from pinakes.catalogue import find
from pinakes.lab.dependencies import _spelled, code_hash, code_of


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package whose files stand in for those that are imported."""
    root = tmp_path / "pinakes"
    shutil.copytree(Path(pinakes.__file__).parent, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(
        "pinakes.lab.dependencies._places", lambda package: [root.joinpath(*package.split(".")[1:])]
    )
    return root


def test_imports_are_followed_at_the_top_inside_functions_and_through_packages() -> None:
    found = code_of(find("patchcore"), ["textures?size=64"])
    for name in (
        "papers.anomaly.patchcore",
        "papers.anomaly.base",
        "method",
        "data.loading",
        "data.textures",
        "data.defects",
        "lab.duel",
        "tasks.anomaly",
        "engine.training",
        "nn.tiny",
    ):
        assert f"pinakes.{name}" in found
    for name in (
        "papers.anomaly",
        "papers.anomaly.reverse_distillation",
        "cli.app",
        "lab.compare",
        "report.page",
    ):
        assert f"pinakes.{name}" not in found


def test_only_code_and_weights_change_the_hash(copy: Path) -> None:
    def after(file: str, change: str = "", bytes_too: bytes = b"") -> str:
        path = copy / file
        before = path.read_bytes()
        path.write_bytes(before + change.encode() + bytes_too)
        found = code_hash(find("patchcore"), ["textures"])
        path.write_bytes(before)
        return found

    same = code_hash(find("patchcore"), ["textures"])
    assert after("nn/backbones.py", "\n\n# a remark\n") == same
    assert after("lab/compare.py", "\nx = 1\n") == same
    assert after("papers/anomaly/__init__.py", "\nx = 1\n") == same
    assert after("papers/anomaly/patchcore.py", "\nx = 1\n") != same
    assert after("nn/backbones.py", "\nx = 1\n") != same
    assert after("data/textures.py", "\nx = 1\n") != same
    assert after("nn/weights/tiny_conv.safetensors", bytes_too=b"0") != same


def test_docstrings_do_not_change_the_hash(copy: Path) -> None:
    same = code_hash(find("patchcore"))
    path = copy / "papers/anomaly/base.py"
    path.write_text(path.read_text().replace("What the detectors of this shelf share.", "Shared."))
    assert code_hash(find("patchcore")) == same


def test_what_is_hashed_is_the_same_in_every_version_of_python() -> None:
    # later versions add fields that are mostly empty, and write f-strings in another way
    tree = ast.parse("def f(a: int) -> str:\n    return f'{a!r:>3}' 'b'\n")
    assert " ".join(_spelled(tree)) == (
        "Module( body [ FunctionDef( name 'f' args arguments( args [ arg( arg 'a' annotation "
        "Name( id 'int' ctx Load( ) ) ) ] ) body [ Return( value JoinedStr( values [ FormattedValue( "
        "value Name( id 'a' ctx Load( ) ) conversion 114 format_spec JoinedStr( values [ Constant( value '>3' ) "
        "] ) ) Constant( value 'b' ) ] ) ) ] returns Name( id 'str' ctx Load( ) ) ) ] )"
    )
