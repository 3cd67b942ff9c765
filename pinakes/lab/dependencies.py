"""Which code a claim's figures depend on, found by reading imports, and a hash of it."""

import ast
import copy
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pinakes
from pinakes.catalogue import Paper
from pinakes.data.sources import SOURCES
from pinakes.data.spec import Spec
from pinakes.errors import UserError

ROOT = "pinakes"
WEIGHTS = "weights"


def code_of(paper: Paper, specs: Iterable[str] = ()) -> dict[str, Path]:
    """The modules of Pinakes on which a paper's claims depend, by name.

    They are the paper's own, its shelf's base, its task, the sources of its data, and whatever these import, at the
    top or inside a function, but not for type checking alone.

    Args:
        paper: The paper.
        specs: The data on which its claims were put to the test.
    """
    roots = [paper.module, f"pinakes.papers.{paper.shelf}.base", f"pinakes.tasks.{paper.task}"]
    for spec in specs:
        scheme = Spec.parse(spec, SOURCES).scheme
        roots += [SOURCES[scheme].partition(":")[0]] if scheme else []
    return _reached(roots)


def _reached(roots: Iterable[str]) -> dict[str, Path]:
    """Modules with whatever they import, by name."""
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name not in found and path is not None:
            found[name] = path
            waiting += _imports(path, name)
    return dict(sorted(found.items()))


def code_hash(paper: Paper, specs: Iterable[str] = ()) -> str:
    """A hash that changes when code does on which a paper's claims depend, or weights that lie beside such code.

    Comments, docstrings and layout leave it as it is, and so does the version of Python.
    """
    return _hash(code_of(paper, specs))


def module_hash(name: str) -> str:
    """The same of one module and whatever it imports."""
    return _hash(_reached([name]))


def _hash(modules: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    folders = set()
    for name, path in modules.items():
        digest.update(f"{name} {_digest(path)}\n".encode())
        folders.add(path.parent / WEIGHTS)
    for folder in sorted(folders):
        for file in sorted(folder.glob("*")):
            digest.update(f"{file.name} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:24]


def _file(module: str) -> Path | None:
    """The file of a module, without importing it."""
    if module == ROOT:
        return Path(pinakes.__file__)
    package, _, name = module.rpartition(".")
    candidates = [
        path for place in _places(package) for path in (place / f"{name}.py", place / name / "__init__.py")
    ]
    return next((path for path in candidates if path.is_file()), None)


def _places(package: str) -> list[Path]:
    """The folders in which the modules of a package lie."""
    imported = sys.modules.get(package)
    if imported is not None:
        return [Path(place) for place in getattr(imported, "__path__", [])]
    parent, _, name = package.rpartition(".")
    return [place / name for place in _places(parent) if (place / name).is_dir()] if parent else []


def _tree(path: Path) -> ast.Module:
    return _parsed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _parsed(path: Path, changed: int) -> ast.Module:
    """The tree of a file as it was at a time; not to be changed."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UserError(f"{path}: is not Python ({error}); mend it, then verify again") from error


def _digest(path: Path) -> str:
    return _digested(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _digested(path: Path, changed: int) -> str:
    code = _WithoutDocstrings().visit(copy.deepcopy(_parsed(path, changed)))
    return hashlib.sha256(" ".join(_spelled(code)).encode()).hexdigest()


def _spelled(node: Any) -> Iterator[str]:
    """A tree in words that are the same in every version of Python: what it holds, without fields that are empty."""
    if isinstance(node, ast.AST):
        yield f"{type(node).__name__}("
        for name, value in ast.iter_fields(node):
            if value is not None and value != []:
                yield name
                yield from _spelled(value)
        yield ")"
    elif isinstance(node, list):
        yield "["
        for each in node:
            yield from _spelled(each)
        yield "]"
    else:
        yield repr(node)


class _WithoutDocstrings(ast.NodeTransformer):
    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            return node
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        return node


def _imports(path: Path, module: str) -> list[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in _statements(_tree(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            if _is_ours(start):
                found += [_origin(start, alias.name) for alias in node.names]
    return [name for name in found if _is_ours(name)]


def _origin(module: str, name: str) -> str:
    """The module that `from module import name` leads to: a submodule, one that is imported when used, or itself."""
    if _file(f"{module}.{name}") is not None:
        return f"{module}.{name}"
    path = _file(module)
    for node in ast.walk(_tree(path)) if path is not None else ():
        if isinstance(node, ast.If) and _is_for_type_checking(node):
            for later in node.body:
                if isinstance(later, ast.ImportFrom) and name in {
                    each.asname or each.name for each in later.names
                }:
                    return later.module or module
    return module


def _is_ours(module: str) -> bool:
    return module == ROOT or module.startswith(f"{ROOT}.")


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_for_type_checking(child):
            for other in child.orelse:
                yield from _statements(other)
            continue
        yield child
        yield from _statements(child)


def _is_for_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING"
