"""Draws the pictures of the scenes that the README shows: four tiles for each label.

    python docs/scene_pictures.py [LABEL...]

Writes to docs/pictures/scenes: LABEL.webp, with samples of the test part, or of training where only that has what the
label is about, and beside them their maps or under them their words.
"""

import argparse
import textwrap
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pinakes.data.loading import load_data
from pinakes.scenes.labels import LABELS
from pinakes.scenes.source import SceneSamples
from pinakes.tasks.base import Panel

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "scenes"
TILE, GAP, QUALITY = 160, 6, 78
GREY = (128, 134, 150, 255)
WORDED = ("captions", "questions", "relations", "table")
SAMPLES = {"anomaly": (5, 7), "domains": (0, 1, 2, 3)}
"""Samples to show other than the first."""


def main() -> None:
    """Draws the labels named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("labels", nargs="*", metavar="LABEL", help="all by default")
    PICTURES.mkdir(parents=True, exist_ok=True)
    for what in parser.parse_args().labels or LABELS:
        draw(what).save(PICTURES / f"{what}.webp", "WEBP", quality=QUALITY, method=6)


def draw(what: str) -> Image.Image:
    """The picture of a label."""
    data = load_data(f"scenes:{what}?size={TILE}&n=32")
    part = data.train if what == "domains" else data.test
    assert isinstance(part, SceneSamples)
    shown = [part.panels(part[index]) for index in SAMPLES.get(what, (0, 1, 2, 3))]
    sheet = Image.new("RGBA", (2 * TILE + GAP, 2 * TILE + GAP))
    corners = [(x * (TILE + GAP), y * (TILE + GAP)) for y, x in product(range(2), repeat=2)]
    if what in WORDED:
        write = ImageDraw.Draw(sheet)
        for panels, above, below in zip(shown, corners[:2], corners[2:], strict=False):
            sheet.paste(Image.fromarray(panels[0].image), above)
            words = textwrap.fill(panels[0].caption, 19, max_lines=7, placeholder=" ...")
            write.multiline_text(below, words, GREY, ImageFont.load_default(16), spacing=6)
    else:
        for panel, corner in zip(tiles(shown), corners, strict=True):
            sheet.paste(Image.fromarray(panel.image), corner)
    return sheet


def tiles(shown: Sequence[Sequence[Panel]]) -> list[Panel]:
    """Four panels: of four samples, of two with their maps, or of one with three of its maps."""
    count = len(shown[0])
    if count == 1:
        return [panels[0] for panels in shown]
    if count <= 3:
        return [shown[0][0], shown[0][1], shown[1][0], shown[1][count - 1]]
    return [*shown[0][:3], shown[0][-1]]


if __name__ == "__main__":
    main()
