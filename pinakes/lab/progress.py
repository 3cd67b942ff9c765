"""The progress bar of long work in the lab."""

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


class WorkBar:
    """A bar on standard error that counts pieces of work, and lines above it that say what came of them.

    Args:
        what: What is being done, "comparing".
        total: How many pieces there are.
        shown: Whether to show anything.

    Example:
        >>> with WorkBar("comparing", 2, shown=False) as bar:
        ...     bar.say("patchcore, seed 0: AUROC 0.9", done=1)
    """

    def __init__(self, what: str, total: int, *, shown: bool) -> None:
        self.shown = shown
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not shown,
        )
        self._work = self._bar.add_task("", total=total)

    def __enter__(self) -> "WorkBar":
        self._bar.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._bar.stop()

    def say(self, line: str = "", *, done: int) -> None:
        """Moves the bar to this many pieces done, and says a line unless it is empty."""
        self._bar.update(self._work, completed=done)
        if line and self.shown:
            self._bar.console.print(escape(line), highlight=False)
