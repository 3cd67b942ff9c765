"""A method's options read from its source, so that showing them costs no import of torch."""

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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

    A constructor that is inherited, or takes the options of a base class as `**name`, is followed through the modules
    of Pinakes.
    """
    return _options(_Source.of(paper.module), paper.method.partition(":")[2])


def _options(source: "_Source", name: str) -> list[OptionEntry]:
    """The options of a class, by its own constructor and those of its bases."""
    if name not in source.classes:
        module, original = source.imports.get(name, ("", ""))
        return _options(_Source.of(module), original) if module.startswith("pinakes.") else []
    node = source.classes[name]
    about = _argument_docs(ast.get_docstring(node) or "")
    constructor = next(
        (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None
    )
    own = [] if constructor is None else list(_parameters(source, constructor, about))
    if constructor is not None and constructor.args.kwarg is None:
        return own
    named = {option.name for option in own}
    bases = (_options(source, base.id) for base in node.bases if isinstance(base, ast.Name))
    shared = next((found for found in bases if found), [])
    return own + [
        replace(option, about=about.get(option.name, option.about))
        for option in shared
        if option.name not in named
    ]


def _parameters(
    source: "_Source", function: ast.FunctionDef, about: Mapping[str, str]
) -> Iterator[OptionEntry]:
    arguments = [*function.args.posonlyargs, *function.args.args][1:]
    defaults = function.args.defaults
    padding: list[ast.expr | None] = [None] * (len(arguments) - len(defaults))
    positional = zip(arguments, [*padding, *defaults], strict=True)
    keywords = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    for argument, default in [*positional, *keywords]:
        yield OptionEntry(
            name=argument.arg,
            type=source.written(argument.annotation) if argument.annotation else "",
            default=source.written(default) if default is not None else "",
            about=about.get(argument.arg, ""),
        )


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
        """An expression as Python writes it; a name of a constant of Pinakes as what it stands for."""
        if isinstance(expression, ast.Name):
            if expression.id in self.constants:
                return ast.unparse(self.constants[expression.id])
            module, original = self.imports.get(expression.id, ("", ""))
            if module.startswith("pinakes."):
                return _Source.of(module).written(ast.Name(original))
        return ast.unparse(expression)


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


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
