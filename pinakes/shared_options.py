"""Options that many methods share, written down once: in the signature and the docstring of each."""

import inspect
from typing import Any

HEADING = "Options that all methods of this shelf share:\n"


def spell_out(cls: type, shared: type) -> None:
    """Puts the options of a base class, and what is said of them, in the place of `**shared` in a class's `__init__`.

    A class whose `__init__` has no such parameter is left alone. Call it from the base's `__init_subclass__`.

    Args:
        cls: The class; options that it names itself stay as they are.
        shared: The base that takes the others; its docstring has a section "Args:", and one "Raises:" behind it.

    Example:
        >>> class Base:
        ...     '''A base.
        ...
        ...     Args:
        ...         depth: How deep.
        ...
        ...     Raises:
        ...         UserError: If not.
        ...     '''
        ...     def __init__(self, depth: int = 2) -> None: ...
        >>> class Paper(Base):
        ...     "A paper."
        ...     def __init__(self, width: int = 8, **shared: Any) -> None: ...
        >>> spell_out(Paper, Base)
        >>> list(inspect.signature(Paper).parameters), "How deep." in Paper.__doc__
        (['width', 'depth'], True)
    """
    own = inspect.signature(cls.__init__)  # type: ignore[misc]  # that of this very class is meant
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in own.parameters.values()):
        return
    names = set(own.parameters)
    added = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, each in inspect.signature(shared.__init__).parameters.items()  # type: ignore[misc]
        if name not in names
    ]
    kept = [each for each in own.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    init: Any = cls.__init__  # type: ignore[misc]
    init.__signature__ = own.replace(parameters=kept + added)
    init.__annotations__ |= {each.name: each.annotation for each in added}
    about = inspect.getdoc(shared) or ""
    said = about.partition("Args:\n")[2].partition("\n\nRaises")[0]
    before = about.partition(HEADING)[2].rstrip()
    cls.__doc__ = f"{inspect.getdoc(cls)}\n\n{HEADING}{said}{before and chr(10)}{before}\n"
