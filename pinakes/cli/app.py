"""The commands, put together."""

from typing import Annotated

import typer

import pinakes
from pinakes.cli import (
    collecting,
    comparing,
    data,
    distilling,
    doctor,
    exporting,
    fitting,
    generating,
    shelves,
    using,
    verifying,
)
from pinakes.cli.group import Commands

app = typer.Typer(
    cls=Commands,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pinakes {pinakes.__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="Try: pinakes compare anomaly --data textures",
)
def pinakes_command(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """The published methods of computer vision, on your own images.

    Exit codes: 0 done, 1 something failed, 2 wrong use. PINAKES_DEBUG=1 shows the traceback of an error.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for module in (
    shelves,
    data,
    fitting,
    using,
    generating,
    collecting,
    exporting,
    comparing,
    distilling,
    verifying,
    doctor,
):
    module.register(app)
