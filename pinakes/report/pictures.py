"""Panels as pictures: side by side on white, with a caption under each."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pinakes.tasks.base import Panel

GAP = 8
CAPTION_HEIGHT = 22
CAPTION_SIZE = 13
SMALLEST = 160
PAPER = (255, 255, 255)
INK = (40, 40, 40)


def strip(panels: Sequence[Panel], *, height: int | None = None) -> Image.Image:
    """Panels side by side with their captions under them.

    Args:
        panels: One or more.
        height: Height of the pictures in pixels; by default their own, and at least 160 so that captions can be
            read. Small pictures are enlarged without smoothing, so that their pixels stay visible.

    Raises:
        ValueError: If there is no panel.
    """
    if not panels:
        raise ValueError("panels: expected at least one, got none")
    height = height or max(SMALLEST, *(panel.image.shape[0] for panel in panels))
    tiles = [_scaled(panel.image, height) for panel in panels]
    width = sum(tile.width for tile in tiles) + GAP * (len(tiles) + 1)
    page = Image.new("RGB", (width, GAP + height + CAPTION_HEIGHT + GAP // 2), PAPER)
    draw = ImageDraw.Draw(page)
    left = GAP
    for tile, panel in zip(tiles, panels, strict=True):
        page.paste(tile, (left, GAP))
        draw.text((left, GAP + height + 3), fitted(panel.caption, tile.width), fill=INK, font=_font())
        left += tile.width + GAP
    return page


def fitted(text: str, width: int) -> str:
    """A caption cut, with an ellipsis, to what `width` pixels hold."""
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _scaled(pixels: np.ndarray, height: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if image.height == height:
        return image
    width = max(1, round(image.width * height / image.height))
    return image.resize(
        (width, height), Image.Resampling.NEAREST if image.height < height else Image.Resampling.LANCZOS
    )


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(CAPTION_SIZE)
