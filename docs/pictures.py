"""Makes the site's pictures: what every method says of its task's default data, and a report.

    python docs/pictures.py [SLUG...] [--seeds N] [--fresh]

Compares the methods of each task on the task's default data, as `pinakes compare` does, in runs/docs; what is there
already is not run again, unless `--fresh` removes it first. Writes to docs/pictures: for each paper SLUG.webp, its
answers under the test images, and SLUG.json, what it cost and where; and report.webp and report-dark.webp, the head of
the report, where Chromium is there to draw it.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import pinakes
from pinakes import tasks
from pinakes.catalogue import find, papers
from pinakes.lab import comparison
from pinakes.lab.cells import Picture, read_cell
from pinakes.lab.comparison import Comparison, Shown
from pinakes.lab.cost import measure_cost
from pinakes.lab.leaderboard import Leaderboard, Row

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
RUNS = ROOT / "runs" / "docs"
COLUMNS, TILE, GAP = 6, 144, 8
QUALITY, REPORT_QUALITY = 80, 65
REPORT_SIZE = (1320, 1110)


def main() -> None:
    """Makes the pictures of the papers named, or of all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help="papers; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="fits of each method")
    parser.add_argument("--fresh", action="store_true", help="run everything anew")
    arguments = parser.parse_args()
    chosen = [find(slug) for slug in arguments.slugs] or papers()
    if arguments.fresh:
        shutil.rmtree(RUNS, ignore_errors=True)
    boards = {}
    for task in dict.fromkeys(paper.task for paper in chosen):
        slugs = [paper.slug for paper in papers(task=task)]
        boards[task] = pinakes.compare(
            task, tasks.get(task).default_data, slugs, seeds=arguments.seeds, out=RUNS / task, progress=True
        )
        for row in boards[task].ranked:
            if row.slug in {paper.slug for paper in chosen}:
                draw(row, boards[task], RUNS / task)
    largest = max(boards.values(), key=lambda board: len(board.ranked))
    if largest.report is not None and not largest.all_failed:
        photograph(largest.report)
    failed = sorted({failure.slug for board in boards.values() for failure in board.failures})
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; the pictures may be of earlier runs")


def draw(row: Row, board: Leaderboard, folder: Path) -> None:
    """Writes a paper's picture, and beside it what the picture shows and what the method cost."""
    described = Comparison.load(folder)
    cell_folder = folder / "cells" / row.slug / f"seed-{row.seeds[0]}"
    cell = read_cell(cell_folder)
    if cell is None:
        raise FileNotFoundError(f"{cell_folder}: holds no result; remove {folder} and run again")
    shown = _one_of_each(described.shown)
    columns = [
        [*_open(folder, each.pictures), *_open(cell_folder, cell.pictures.get(each.index, ()))]
        for each in shown
    ]
    rows = max(len(column) for column in columns)
    sheet = Image.new("RGBA", (len(shown) * (TILE + GAP) - GAP, rows * (TILE + GAP) - GAP))
    for across, column in enumerate(columns):
        for down, picture in enumerate(column):
            sheet.paste(picture, (across * (TILE + GAP), down * (TILE + GAP)))
    sheet.save(PICTURES / f"{row.slug}.webp", "WEBP", quality=QUALITY, method=6)
    facts: dict[str, Any] = {
        "data": board.data,
        "width": sheet.width,
        "height": sheet.height,
        "kinds": [each.group for each in shown],
        "seeds": len(row.seeds),
        "metrics": {
            column.label: [round(value, 4) for value in row.metric(column.name).values]
            for column in board.columns
            if row.metric(column.name).finite
        },
        "fit_seconds": round(row.fit_seconds.mean, 3),
        "predict_milliseconds": round(row.predict_milliseconds.mean, 3),
        "cost": measure_cost(row.slug, size=_size(described)).as_json(),
        "machine": described.machine,
        "versions": comparison.versions(),
        "date": described.date,
    }
    (PICTURES / f"{row.slug}.json").write_text(json.dumps(facts, indent=1) + "\n")


def photograph(report: Path) -> None:
    """Writes the head of a report as it looks in a browser, light and dark; says so where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("no Chromium here: report.webp and report-dark.webp stay as they are")
        return
    from playwright.sync_api import sync_playwright

    width, height = REPORT_SIZE
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme, name in (("light", "report"), ("dark", "report-dark")):
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=scheme,  # type: ignore[arg-type]  # one of the two words it takes
            )
            page.goto(report.resolve().as_uri())
            shot = PICTURES / f"{name}.png"
            page.screenshot(path=shot)
            Image.open(shot).convert("RGB").save(PICTURES / f"{name}.webp", quality=REPORT_QUALITY, method=6)
            shot.unlink()
        browser.close()


def _size(described: Comparison) -> tuple[int, int]:
    height, width = described.data["size"]
    return height, width


def _one_of_each(shown: Sequence[Shown]) -> list[Shown]:
    """A sample of each kind in turn, as many as fit."""
    first: dict[str, Shown] = {}
    for each in shown:
        first.setdefault(each.group, each)
    rest = [each for each in shown if each not in first.values()]
    return [*first.values(), *rest][:COLUMNS]


def _open(folder: Path, pictures: Sequence[Picture]) -> list[Image.Image]:
    opened = []
    for picture in pictures:
        drawn = Image.open(folder / picture.file).convert("RGB")
        whole = drawn.width <= TILE // 2
        opened.append(
            drawn.resize((TILE, TILE), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
        )
    return opened


if __name__ == "__main__":
    main()
