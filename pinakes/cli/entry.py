"""A method's options read from its source, so that showing them costs no import of torch."""

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pinakes.catalogue import Paper


@dataclass(frozen=True)
class OptionEntry:
    """One hyper-parameter of a method, as its source states it.

    Args:
        name: Its name, as for `--set NAME=VALUE`.
        type: Its annotation.
        default: Its default, as Python writes it.
        about: What the docstring of the class says of it.
    """

    name: str
    type: str
    default: str
    about: str


def read_options(paper: Paper) -> list[OptionEntry]:
    """The options of a method in the order of its constructor, without importing it.

    A constructor that is inherited is followed through the modules of Pinakes.
    """
    source = _Source.of(paper.module)
    name = paper.method.partition(":")[2]
    about = _argument_docs(ast.get_docstring(source.classes[name]) or "")
    found = _constructor(source, name)
    if found is None:
        return []
    where, function = found
    arguments = [*function.args.posonlyargs, *function.args.args][1:]
    padding: list[ast.expr | None] = [None] * (len(arguments) - len(function.args.defaults))
    pairs = (
        zip(arguments, [*padding, *function.args.defaults][-len(arguments) :], strict=True)
        if arguments
        else ()
    )
    return [
        OptionEntry(
            name=argument.arg,
            type=ast.unparse(argument.annotation) if argument.annotation else "",
            default=where.written(default) if default is not None else "",
            about=about.get(argument.arg, ""),
        )
        for argument, default in [
            *pairs,
            *zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True),
        ]
    ]


class _Source:
    """The parsed text of one module."""

    def __init__(self, module: str, tree: ast.Module) -> None:
        self.module = module
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.imports = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        self.constants = dict(_constants(tree))

    @classmethod
    def of(cls, module: str) -> "_Source":
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{module}: the catalogue names a module that does not exist")
        return cls(module, ast.parse(Path(spec.origin).read_text(encoding="utf-8")))

    def written(self, expression: ast.expr) -> str:
        if isinstance(expression, ast.Name) and expression.id in self.constants:
            expression = self.constants[expression.id]
        return ast.unparse(expression)


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _constructor(source: _Source, name: str) -> tuple[_Source, ast.FunctionDef] | None:
    if name not in source.classes:
        module, original = source.imports.get(name, ("", ""))
        return _constructor(_Source.of(module), original) if module.startswith("pinakes.") else None
    for node in source.classes[name].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return source, node
    bases = (base.id for base in source.classes[name].bases if isinstance(base, ast.Name))
    return next((found for base in bases if (found := _constructor(source, base))), None)


def _argument_docs(docstring: str) -> dict[str, str]:
    """The texts of the `Args:` section by name."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|\n)+)", docstring + "\n", re.MULTILINE)
    if section is None:
        return {}
    docs: dict[str, str] = {}
    name = ""
    for line in section[1].splitlines():
        start = re.match(r" {4}(\w+): (.*)", line)
        if start:
            name = start[1]
            docs[name] = start[2]
        elif name and line.strip():
            docs[name] += f" {line.strip()}"
    return docs
