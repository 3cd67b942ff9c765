"""Data specs: `SCHEME:PATH?key=value&key=value`, `NAME?key=value`, or a bare path."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin
from urllib.parse import unquote

from pinakes.errors import UserError, suggest

_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9_-]+):(?P<path>.*)", re.DOTALL)
_OPTIONS = re.compile(r"[A-Za-z_]\w*=[^&=?]*(&[A-Za-z_]\w*=[^&=?]*)*")


@dataclass(frozen=True)
class Spec:
    """A parsed data spec; `str()` gives the words again.

    Options begin at the last `?` that is followed by nothing or by `key=value` pairs, so that a path may hold
    question marks. Option values are percent-encoded where they hold one of `& = ? %`.

    Args:
        scheme: The name of a source, such as "mvtec"; empty for a bare path.
        path: What stands after the colon; empty for built-in sets.
        options: The words after the question mark, not yet converted.

    Example:
        >>> Spec.parse("mvtec:parts/screws?size=128", ["mvtec"])
        Spec(scheme='mvtec', path='parts/screws', options={'size': '128'})
        >>> str(Spec("folder", "pets", {"normal": "cats & dogs"}))
        'folder:pets?normal=cats %26 dogs'
    """

    scheme: str
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, schemes: Collection[str]) -> "Spec":
        """Reads a spec.

        Args:
            text: The spec.
            schemes: The names of the sources there are.

        Raises:
            UserError: If it is empty or names an option twice.
        """
        if not text.strip():
            raise UserError(
                "the data spec is empty; give a folder of images or a built-in set such as 'digits'"
            )
        words, options = _split_options(text)
        if words in schemes:
            return cls(words, "", options)
        match = _SCHEME.fullmatch(words)
        if match and match["scheme"] in schemes:
            return cls(match["scheme"], match["path"], options)
        return cls("", words, options)

    @property
    def unknown_scheme(self) -> str:
        """What looks like the name of a source in a bare path, or an empty string."""
        match = None if self.scheme else _SCHEME.fullmatch(self.path)
        return match["scheme"] if match else ""

    def __str__(self) -> str:
        words = f"{self.scheme}:{self.path}" if self.scheme and self.path else self.scheme or self.path
        pairs = "&".join(f"{name}={_quote(value)}" for name, value in self.options.items())
        return f"{words}?{pairs}" if pairs or "?" in words else words


def _quote(value: str) -> str:
    return re.sub("[&=?%]", lambda match: f"%{ord(match[0]):02X}", value)


def _split_options(text: str) -> tuple[str, dict[str, str]]:
    words, mark, tail = text.rpartition("?")
    if not mark or not (tail == "" or _OPTIONS.fullmatch(tail)):
        return text, {}
    options: dict[str, str] = {}
    for pair in filter(None, tail.split("&")):
        name, _, value = pair.partition("=")
        if name in options:
            raise UserError(f"the option '{name}' is given twice in '{text}'; give it once")
        options[name] = unquote(value)
    return words, options


def read_options(
    loader: Callable[..., Any], spec: Spec, shared: Mapping[str, Callable[[str, str], Any]]
) -> dict[str, Any]:
    """Converts the options of a spec to the types that its source states.

    The keyword-only parameters of `loader` are its options; they are annotated int, float, bool, str or
    `Literal[...]`. A loader with `**words` gets all others as they stand in the spec.

    Args:
        loader: The function that makes the source's data.
        spec: Whose options to convert.
        shared: Converters of the options that every source takes, called with name and word.

    Raises:
        UserError: If there is no such option or a value is not of its type; the message names the option.
    """
    parameters = inspect.signature(loader).parameters.values()
    types = {p.name: p.annotation for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    reads_words = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    values = {}
    for name, word in spec.options.items():
        if name in shared:
            values[name] = shared[name](name, word)
        elif name in types:
            values[name] = _convert(name, word, types[name])
        elif reads_words:
            values[name] = word
        else:
            known = [*types, *shared]
            raise UserError(f"'{spec.scheme}' data has no option '{name}'{suggest(name, known)}")
    return values


def _convert(name: str, word: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        by_word = {str(choice): choice for choice in get_args(kind)}
        if word not in by_word:
            raise UserError(f"the option '{name}' cannot be '{word}'{suggest(word, by_word)}")
        return by_word[word]
    if kind is bool:
        return _to_bool(name, word)
    if kind is int:
        return to_int(name, word)
    if kind is float:
        return _to_float(name, word)
    return word


def to_int(name: str, word: str) -> int:
    """The whole number in `word`, or a UserError that names the option."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", word):
        raise UserError(f"the option '{name}' must be a whole number, got '{word}'")
    return int(word)


def _to_float(name: str, word: str) -> float:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", word):
        raise UserError(f"the option '{name}' must be a number, got '{word}'")
    return float(word)


def _to_bool(name: str, word: str) -> bool:
    if word.lower() in {"true", "yes", "1"}:
        return True
    if word.lower() in {"false", "no", "0"}:
        return False
    raise UserError(f"the option '{name}' must be true or false, got '{word}'")


def to_size(name: str, word: str) -> tuple[int, int]:
    """(height, width) from "64" or "64x96", or a UserError that names the option."""
    match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", word)
    if not match:
        raise UserError(f"the option '{name}' must be like 64, or 64x96 for height x width, got '{word}'")
    return check_size((int(match[1]), int(match[2] or match[1])))


def check_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels from a side or a pair, or a UserError."""
    height, width = (size, size) if isinstance(size, int) else size
    if not (1 <= height <= 16384 and 1 <= width <= 16384):
        raise UserError(f"size must be from 1 to 16384 pixels, got {height} x {width}")
    return int(height), int(width)
