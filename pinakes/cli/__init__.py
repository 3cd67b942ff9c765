"""The command line: each command is one call into the library. Nothing here imports torch before it is needed."""


def main() -> None:
    """The entry of the `pinakes` command."""
    from pinakes.cli.app import app

    app(prog_name="pinakes")
