"""`pinakes doctor`: is everything in place on this machine, and what to do if not."""

from dataclasses import asdict

import typer

from pinakes.cli.console import kept_clear, print_json
from pinakes.cli.group import FAILED
from pinakes.cli.parameters import AsJson

_MARKS = {"ok": ("green", "ok      "), "missing": ("yellow", "optional"), "broken": ("red", "broken  ")}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("doctor", epilog="Example: pinakes doctor --json")(doctor)


def doctor(json: AsJson = False) -> None:
    """Check versions, devices, caches and weights, and train one step."""
    from pinakes.cli.checks import check_everything

    with kept_clear():
        checks = check_everything()
    broken = any(check.state == "broken" for check in checks)
    if json:
        print_json({"ok": not broken, "checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            colour, mark = _MARKS[check.state]
            remedy = f" -> {check.remedy}" if check.remedy else ""
            typer.echo(f"{typer.style(mark, fg=colour)}  {check.name}: {check.found}{remedy}")
    if broken:
        raise typer.Exit(FAILED)
