"""How the commands fail: one line, the right exit code, and a traceback only when asked for."""

import contextlib
import functools
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from pinakes.cli.console import print_error
from pinakes.errors import UserError

FAILED = 1
WRONG_USE = 2
INTERRUPTED = 130

HOW_TO_CONTINUE = {
    "fit": "the same command with --resume continues from the last checkpoint",
    "compare": "the same command continues after the cells that are done",
    "distill": "the same command continues from the last checkpoints",
    "verify": "the same command continues after the seeds that are done",
}
_NOISY = r"(lightning|torch|torchvision|torchmetrics|timm|huggingface_hub|PIL)"


def debugging() -> bool:
    """Whether the user asked for tracebacks with PINAKES_DEBUG."""
    return os.environ.get("PINAKES_DEBUG", "") not in {"", "0"}


class Commands(TyperGroup):
    """The group of all commands; turns what they raise into one line and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command and exits with its code; see `TyperGroup.main`."""
        run = functools.partial(
            super().main,
            args,
            prog_name,
            complete_var,
            standalone_mode=False,
            windows_expand_args=windows_expand_args,
            **extra,
        )
        if not standalone_mode:
            return run()
        with _quiet_libraries():
            try:
                code = run()
            except UserError as error:
                code = _report(str(error), WRONG_USE)
            except typer.TyperException as error:
                code = _report(_explain(error), error.exit_code)
            except typer.Abort:
                code = _report("stopped", FAILED)
            except BrokenPipeError:
                code = _leave_closed_pipe()
            except Exception as error:
                hint = "" if debugging() else "; PINAKES_DEBUG=1 shows the traceback"
                code = _report(f"{type(error).__name__}: {error}{hint}", FAILED)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; Ctrl-C ends it with a line that says how to go on."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            hint = HOW_TO_CONTINUE.get(ctx.invoked_subcommand or "", "the same command starts again")
            if not debugging():
                # an object that was caught half made complains as it is thrown away, after our line
                sys.unraisablehook = lambda complaint: None
            print_error(f"interrupted; {hint}")
            raise typer.Exit(INTERRUPTED) from interrupt


def _report(message: str, code: int) -> int:
    if debugging():
        traceback.print_exc()
    print_error(message)
    return code


def _explain(error: typer.TyperException) -> str:
    message = error.format_message().rstrip(".")
    name, near = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if name and near:
        message = f"No such option: {name}; did you mean '{near[0]}'?"
    context = getattr(error, "ctx", None)
    return f"{message} ({context.command_path} --help lists what there is)" if context else message


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keeps the advice that libraries print for developers off the user's terminal, unless it is asked for."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        if not debugging():
            warnings.filterwarnings("ignore", module=_NOISY)
            logging.disable(logging.INFO)
        try:
            yield
        finally:
            logging.disable(before)


def _leave_closed_pipe() -> int:
    """The reader, such as `head`, has gone: nothing more can be said, and flushing at exit must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
