"""What a user is told when something given cannot be used."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user gave cannot be used: the message names it and says what to do.

    The command line prints the message as one line and exits with code 2.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the nearest known word, else the choices, ready to append to a message.

    Example:
        >>> suggest("textur", ["textures", "digits"])
        "; did you mean 'textures'?"
        >>> suggest("zzz", ["textures", "digits"])
        '; choose from digits, textures'
    """
    choices = sorted(known)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; choose from {', '.join(choices)}" if choices else ""
