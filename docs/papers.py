"""What a paper's own file says of it, read without importing it: idea, equations, differences, claims, names."""

import ast
import functools
import html
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latex2mathml.converter import convert
from markupsafe import Markup

from pinakes.catalogue import Paper

EQUATIONS = "EQUATIONS"
DIFFERENCES = re.compile(r"Differences\b|What the authors' code does otherwise")


@dataclass(frozen=True)
class Block:
    """A paragraph of a docstring, or the items of a list; each with its equation as MathML, where it has one.

    Args:
        texts: One paragraph, or the items.
        is_list: Whether it is a list.
        equations: As many as texts; empty where there is none.
    """

    texts: tuple[str, ...]
    is_list: bool = False
    equations: tuple[str, ...] = ()

    def html(self) -> Markup:
        """The block as HTML on one line, so that Markdown leaves it alone."""
        if not self.is_list:
            return Markup("<p>{}</p>").format(prose(self.texts[0]))
        items = Markup("").join(
            Markup("<li>{}{}</li>").format(prose(text), Markup(equation))
            for text, equation in zip(self.texts, self.equations, strict=True)
        )
        return Markup('<ul class="terms">{}</ul>').format(items)


@dataclass(frozen=True)
class PublicName:
    """A function or class that a paper's file offers.

    Args:
        name: Its name.
        line: Where it starts in the file.
        about: The first sentence of its docstring.
    """

    name: str
    line: int
    about: str


@dataclass(frozen=True)
class StatedClaim:
    """A claim as the file states it.

    Args:
        name: Name of its function.
        text: The claim in words.
        where: Where the paper makes it.
        about: How it is put to the test.
    """

    name: str
    text: str
    where: str
    about: str


@dataclass(frozen=True)
class PaperText:
    """What a paper's file says.

    Args:
        path: The file, relative to the repository.
        source: Its text.
        sections: Blocks by section: "idea", "equations", "sources", "differences".
        names: Public functions and classes, in the order of the file.
        claims: The claims, in the order of the file.
    """

    path: str
    source: str
    sections: dict[str, list[Block]]
    names: tuple[PublicName, ...]
    claims: tuple[StatedClaim, ...]


def read_paper(paper: Paper) -> PaperText:
    """Reads a paper's file.

    Args:
        paper: The catalogue's entry.

    Raises:
        ModuleNotFoundError: If the catalogue names a module that does not exist.
    """
    spec = importlib.util.find_spec(paper.module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{paper.module}: the catalogue names a module that does not exist")
    path = Path(spec.origin)
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    sections = _sections(_blocks(ast.get_docstring(tree) or "", _equations(tree)))
    return PaperText(
        path=f"{paper.module.replace('.', '/')}.py",
        source=source,
        sections=sections,
        names=tuple(_names(tree)),
        claims=tuple(_claims(tree)),
    )


def prose(text: str) -> Markup:
    """A docstring's text as HTML: what stands between backticks is code, everything else is taken as it is."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if position % 2 else Markup(html.escape(part))
        for position, part in enumerate(parts)
    )


@functools.cache
def mathml(latex: str) -> str:
    """An equation as MathML."""
    converted: str = convert(latex, display="block")
    return f'<div class="equation">{converted}</div>'


def first_sentence(docstring: str) -> str:
    """The first paragraph of a docstring up to its first full stop."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.:]) (?=[A-Z])", paragraph)[0].rstrip(":")


def _blocks(docstring: str, equations: list[tuple[str, str]]) -> list[Block]:
    blocks, left = [], equations
    for paragraph in docstring.split("\n\n")[1:]:
        if not paragraph.startswith("- "):
            blocks.append(Block((" ".join(paragraph.split()),)))
            continue
        items = tuple(" ".join(item.split()) for item in re.split(r"^- ", paragraph, flags=re.MULTILINE)[1:])
        home = {label: _home(label, items) for label, _ in left}
        found = tuple(
            "".join(mathml(latex) for label, latex in left if home[label] == place)
            for place in range(len(items))
        )
        left = [each for each in left if home[each[0]] is None]
        blocks.append(Block(items, True, found))
    return blocks


def _home(label: str, items: Sequence[str]) -> int | None:
    """Which item an equation belongs to: the one that its label opens, or else the first one that names it."""
    named = re.compile(rf"(?<!\w){re.escape(_each_named(label))}(?!\.?\w)", re.IGNORECASE)
    starts = {
        place: each.start() for place, item in enumerate(items) if (each := named.search(_each_named(item)))
    }
    return min(starts, key=lambda place: starts[place] > 0, default=None)


def _each_named(text: str) -> str:
    """Text in which "equations 1 and 2" reads "equation 1 and equation 2"."""
    return re.sub(r"([Ee]quation)s (\w+) and (\w+)", r"\1 \2 and \1 \3", text)


def _sections(blocks: list[Block]) -> dict[str, list[Block]]:
    sections: dict[str, list[Block]] = {"idea": [], "equations": [], "sources": [], "differences": []}
    current = "idea"
    for block in blocks:
        opening = "" if block.is_list else block.texts[0]
        if DIFFERENCES.match(opening):
            current = "differences"
        elif re.match(r"Sources?:", opening):
            current = "sources"
        elif current == "idea" and opening.endswith(":"):
            current = "equations"
        sections[current].append(block)
    return sections


def _equations(tree: ast.Module) -> list[tuple[str, str]]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == EQUATIONS for target in targets):
            assert isinstance(node, ast.Assign)
            return list(ast.literal_eval(node.value))
    return []


def _names(tree: ast.Module) -> list[PublicName]:
    return [
        PublicName(node.name, node.lineno, first_sentence(ast.get_docstring(node) or ""))
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not _claim_call(node)
    ]


def _claims(tree: ast.Module) -> list[StatedClaim]:
    found = []
    for node in tree.body:
        call = _claim_call(node)
        if call is not None and isinstance(node, ast.FunctionDef):
            stated = {
                each.arg: ast.literal_eval(each.value)
                for each in call.keywords
                if each.arg in ("text", "where")
            }
            about = " ".join((ast.get_docstring(node) or "").split())
            found.append(StatedClaim(node.name, stated["text"], stated["where"], about))
    return found


def _claim_call(node: ast.AST) -> ast.Call | None:
    for decorator in getattr(node, "decorator_list", []):
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).rpartition(".")[2] == "claim":
            return decorator
    return None
