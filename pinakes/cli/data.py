"""`pinakes data`: what was recognised in a folder, and what is wrong with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pinakes.cli import completion
from pinakes.cli.console import kept_clear, note, print_json, print_table
from pinakes.cli.parameters import AsJson, Size, SkipBad, pixels
from pinakes.errors import UserError

CONTACT_SHEET = "contact_sheet.png"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("data", epilog="Example: pinakes data parts/ --out look")(describe_data)


def describe_data(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="As --data takes it: a folder or a built-in set.",
            autocompletion=completion.specs,
        ),
    ],
    task: Annotated[
        str | None, typer.Option(help="Arrange it for this task.", autocompletion=completion.tasks)
    ] = None,
    size: Size = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a contact sheet here.")] = None,
    skip_bad: SkipBad = False,
    json: AsJson = False,
) -> None:
    """Say what was recognised: counts, classes, sizes, what is wrong; with --out, a contact sheet.

    Files that cannot be used are all listed; unless --skip-bad is given they make the exit code 2.
    """
    shape = pixels(size)

    from pinakes import tasks
    from pinakes.cli.output import check_folder
    from pinakes.data import load_data
    from pinakes.data.summary import contact_sheet, describe

    with kept_clear():
        chosen = None if task is None else tasks.get(task)
        if out is not None:
            check_folder(out)
        loaded = load_data(spec, task=chosen, size=shape, skip_bad=True)
        found = describe(loaded)
        usable = skip_bad or not loaded.skipped
        sheet = contact_sheet(loaded, chosen) if out is not None and usable else None
    if out is not None and sheet is not None:
        out.mkdir(parents=True, exist_ok=True)
        sheet.save(out / CONTACT_SHEET)
    if chosen is None and loaded.wishes:
        note(f"{', '.join(loaded.wishes)}: read by a task only; name it with --task")
    if json:
        print_json(found | {"contact_sheet": None if sheet is None else str(Path(out or "", CONTACT_SHEET))})
    else:
        _print(found)
        if sheet is not None:
            note(f"contact sheet: {Path(out or '', CONTACT_SHEET)}")
    if not usable:
        first = loaded.skipped[0]
        count = len(loaded.skipped)
        raise UserError(
            f"{count} file{'s' * (count > 1)} cannot be used, first {first.path}: {first.reason}; replace what is "
            "listed, or leave it out with --skip-bad"
        )


def _print(found: dict[str, Any]) -> None:
    note(f"{found['spec']}: {found['layout']}")
    height, width = found["size"]
    native = [f"{each['count']} of {each['height']}x{each['width']}" for each in found["native_sizes"]]
    files = f"; files: {', '.join(native[:5])}{', ...' if len(native) > 5 else ''}" if native else ""
    note(f"size {height}x{width} (height x width), {found['channels']} channels{files}")
    if values := found["values"]:
        means, deviations = _several(values["mean"]), _several(values["std"])
        note(f"values {values['low']:g} to {values['high']:g}, mean {means}, standard deviation {deviations}")
    if masks := found["masks"]:
        note(
            f"masks: {masks['samples']:.0%} of the images have marked pixels, {masks['pixels']:.1%} of them in the mean"
        )
    rows = []
    for name, split in found["splits"].items():
        labels = split["kinds"] or split["classes"]
        partly = split["counted"] < split["count"]
        held = ", ".join(f"{label} {count}" for label, count in labels.items())
        rows.append(
            (
                name,
                str(split["count"]),
                held + (f" (of {split['counted']} looked at)" if partly and held else ""),
            )
        )
    print_table(("part", "images", "classes or kinds"), rows)
    if found["skipped"]:
        print_table(
            ("file that cannot be used", "why"), [(each["path"], each["reason"]) for each in found["skipped"]]
        )


def _several(values: list[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)
