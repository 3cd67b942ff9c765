"""Reads the words of `--set NAME=VALUE` by what the method's constructor says of its options."""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pinakes.errors import UserError, suggest

_FLAGS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def read_settings(words: Sequence[str], constructor: Callable[..., Any], owner: str) -> dict[str, Any]:
    """The options in `NAME=VALUE` words, each as the type that its parameter is annotated with, or its default has.

    Args:
        words: What the user gave, such as ["neighbours=9", "layers=2,3"].
        constructor: A class whose `__init__` takes the options, or a function.
        owner: What the options belong to, for messages.

    Raises:
        UserError: If a word is not NAME=VALUE, a name is unknown (suggests the nearest) or given twice, or a value
            is not of its type.

    Example:
        >>> def make(neighbours: int = 9, layers: Sequence[int] = (2, 3), backbone: str = "a"): ...
        >>> read_settings(["neighbours=3", "layers=1,2"], make, "it")
        {'neighbours': 3, 'layers': (1, 2)}
    """
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    parameters = {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}
    annotations = typing.get_type_hints(function)
    settings: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UserError(
                f"--set {word}: expected NAME=VALUE, such as --set {next(iter(parameters), 'name')}=..."
            )
        if name not in parameters:
            raise UserError(f"--set {name}: {owner} has no option '{name}'{suggest(name, parameters)}")
        if name in settings:
            raise UserError(f"--set {name}: is given twice; give it once")
        kind = annotations.get(name, Any)
        default = parameters[name].default
        if kind is Any and default is not inspect.Parameter.empty and default is not None:
            kind = type(default)
        settings[name] = _read(f"--set {name}", value, kind)
    return settings


ALL = "all"
"""In place of a method's name: every compared method that has the option."""


def read_settings_of_methods(words: Sequence[str], slugs: Collection[str]) -> dict[str, dict[str, Any]]:
    """The options in `SLUG.NAME=VALUE` words, by method.

    Args:
        words: What the user gave, such as ["patchcore.neighbours=9"]. "all.neighbours=9" goes to every method that
            takes part, has the option and is not given its own; it is kept as one under "all" where all of them read
            the value alike.
        slugs: The methods that take part.

    Raises:
        UserError: As `read_settings`, and if a method is unknown or does not take part, or none has an option that is
            for all.
    """
    from pinakes.catalogue import find

    by_slug: dict[str, list[str]] = {}
    for word in words:
        target, _, _ = word.partition("=")
        slug, dot, _ = target.partition(".")
        if not dot:
            raise UserError(
                f"--set {word}: expected SLUG.NAME=VALUE, such as --set {next(iter(slugs))}.{target}=..."
            )
        if slug != ALL:
            find(slug)
            if slug not in slugs:
                raise UserError(f"--set {target}: {slug} does not take part{suggest(slug, slugs)}")
        by_slug.setdefault(slug, []).append(word[len(slug) + 1 :])
    for_all = by_slug.pop(ALL, [])
    own = {slug: read_settings(given, find(slug).load(), slug) for slug, given in by_slug.items()}
    return _with_those_for_all(for_all, slugs, own)


def _with_those_for_all(
    words: Sequence[str], slugs: Collection[str], own: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The methods' own options, and those in `NAME=VALUE` words for every method that has them."""
    from pinakes.catalogue import find
    from pinakes.cli.entry import read_options

    known = {slug: [option.name for option in read_options(find(slug))] for slug in (slugs if words else ())}
    for_all: dict[str, Any] = {}
    seen: set[str] = set()
    for word in words:
        name, _, _ = word.partition("=")
        if name in seen:
            raise UserError(f"--set {ALL}.{name}: is given twice; give it once")
        seen.add(name)
        having = [slug for slug, names in known.items() if name in names]
        if not having:
            everything = {each for names in known.values() for each in names}
            raise UserError(
                f"--set {ALL}.{name}: no method that takes part has an option '{name}'{suggest(name, everything)}"
            )
        values = {slug: read_settings([word], find(slug).load(), slug)[name] for slug in having}
        first = values[having[0]]
        if all(type(value) is type(first) and value == first for value in values.values()):
            for_all[name] = first
        else:
            for slug, value in values.items():
                own[slug] = {name: value, **own.get(slug, {})}
    return {ALL: for_all, **own} if for_all else own


def _read(where: str, word: str, kind: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(where, word, inner)
    if origin is Literal:
        choices = {str(choice): choice for choice in inner}
        if word not in choices:
            raise UserError(f"{where}: '{word}' is not a choice{suggest(word, choices)}")
        return choices[word]
    if origin in (tuple, list, Sequence) or kind in (tuple, list, Sequence):
        return _read_several(where, word, origin, inner)
    if origin in (dict, Mapping) or kind in (dict, Mapping):
        return _read_literal(where, word, "a Python dict, such as {'a': 1}", dict)
    if kind is bool:
        if word.lower() not in _FLAGS:
            raise UserError(f"{where}: expected true or false, got '{word}'")
        return _FLAGS[word.lower()]
    if kind is int:
        return _read_number(where, word, int, "a whole number")
    if kind is float:
        return _read_number(where, word, float, "a number")
    if kind is Path:
        return Path(word)
    return word


def _read_union(where: str, word: str, kinds: Sequence[Any]) -> Any:
    if type(None) in kinds and word.lower() == "none":
        return None
    kinds = sorted((kind for kind in kinds if kind is not type(None)), key=lambda kind: kind is str)
    refusals = []
    for kind in kinds:
        try:
            return _read(where, word, kind)
        except UserError as error:
            refusals.append(str(error))
    raise UserError(refusals[-1])


def _read_several(where: str, word: str, origin: Any, inner: Sequence[Any]) -> Any:
    bare = word.strip()
    if bare[:1] + bare[-1:] in ("()", "[]"):
        bare = bare[1:-1]
    parts = [part.strip() for part in bare.split(",")] if bare.strip() else []
    if len(parts) > 1 and parts[-1] == "":
        parts.pop()
    fixed = origin is tuple and inner and inner[-1] is not Ellipsis
    if fixed and len(parts) != len(inner):
        raise UserError(f"{where}: expected {len(inner)} values with commas between, got '{word}'")
    kinds = inner if fixed else [inner[0] if inner else None] * len(parts)
    values = [
        _guess(part) if kind in (None, Any) else _read(where, part, kind)
        for part, kind in zip(parts, kinds, strict=True)
    ]
    return values if origin is list else tuple(values)


def _read_number(where: str, word: str, kind: Callable[[str], Any], expected: str) -> Any:
    try:
        value = kind(word)
    except ValueError:
        value = None
    if value is None or value != value:
        raise UserError(f"{where}: expected {expected}, got '{word}'")
    return value


def _read_literal(where: str, word: str, expected: str, kind: type) -> Any:
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{where}: expected {expected}, got '{word}'")
    return value


def _guess(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
