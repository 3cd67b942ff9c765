"""Defects painted onto pictures of a surface, with exact masks.

Every kind is a function of the picture and a random generator, which returns the picture with the defect and its
opacity, a map in [0, 1]. Lengths are shares of the picture's shorter side.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

_FAINT = 0.05
"""Opacity below which nothing is painted."""
_VISIBLE = 0.05
"""Least mean change of the masked pixels."""
_SUPERSAMPLING = 4

Painter = Callable[[np.ndarray, np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]


def paint(
    image: np.ndarray, kind: str, rng: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Paints one defect.

    Args:
        image: float32 (3, height, width) in [0, 1].
        kind: One of `KINDS`.
        rng: Source of every random choice.
        foreign: A picture of another material, of the same shape, for the kind "patch".

    Returns:
        The picture with the defect, and its mask, bool (height, width). Outside the mask the picture is unchanged;
        inside, it is changed visibly.
    """
    for _ in range(20):
        painted, opacity = KINDS[kind](image, rng, foreign)
        mask = opacity > _FAINT
        result = np.where(mask, (image + opacity * (painted - image)).clip(0, 1), image).astype(np.float32)
        if mask.any() and np.abs(result - image).mean(0)[mask].mean() > _VISIBLE:
            return result, mask
    raise RuntimeError(f"no visible {kind} could be painted")


def _scratch(
    image: np.ndarray, rng: np.random.Generator, foreign: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.sin(angle), np.cos(angle)])
    across = along[::-1] * [1, -1]
    middle = rng.uniform(0.35, 0.65, 2)
    half = rng.uniform(0.2, 0.42)
    t = np.linspace(-1, 1, 40)[:, None]
    line = middle + half * t * along + rng.uniform(-0.12, 0.12) * (1 - t**2) * across
    widths = rng.uniform(0.014, 0.024) * (1 - 0.8 * t[:, 0] ** 2)
    strokes = [(line, widths)]
    if rng.random() < 0.5:
        beside = rng.uniform(0.03, 0.05) * rng.choice([-1, 1])
        strokes.append((line[8:30] + beside * across, 0.6 * widths[8:30]))
    opacity = _draw(image, strokes)
    return image + _contrast(image, opacity) * rng.uniform(0.12, 0.4), opacity * _grain(image, rng)


def _crack(image: np.ndarray, rng: np.random.Generator, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = rng.uniform(0.15, 0.85, 2)
    heading = np.arctan2(*(0.5 - start)) + rng.normal(0, 0.3)
    trunk = _wander(start, heading, int(rng.integers(12, 18)), rng)
    fork = int(rng.integers(3, 8))
    branch = _wander(trunk[fork], heading + rng.choice([-1, 1]) * rng.uniform(0.6, 1.1), 7, rng)
    width = rng.uniform(0.018, 0.03)
    strokes = [
        (trunk, width * np.linspace(1, 0.3, len(trunk)) * rng.uniform(0.6, 1.2, len(trunk))),
        (branch, width * np.linspace(0.7, 0.2, len(branch))),
    ]
    opacity = _draw(image, strokes)
    return image + _contrast(image, opacity) * rng.uniform(0.15, 0.45), opacity * _grain(image, rng)


def _stain(image: np.ndarray, rng: np.random.Generator, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = _blob(image, rng, rng.uniform(0.11, 0.22), ragged=0.25)
    opacity = _ramp(inside, 0.03) * rng.uniform(0.5, 0.95)
    rim = _ramp(inside, 0.02) * (1 - _ramp(inside, 0.07))
    coloured = np.ptp(image, axis=0).max() > 0.01
    pigment = np.array([0.65, 0.52, 0.4] if coloured else [0.55] * 3)[:, None, None] * rng.uniform(0.8, 1.1)
    cover = 0.35 if image.mean() < 0.2 else 0.02
    return (image * pigment + cover * pigment) * (1 - 0.35 * rim), opacity


def _hole(image: np.ndarray, rng: np.random.Generator, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = _blob(image, rng, rng.uniform(0.05, 0.1), ragged=0.12)
    down, across = np.gradient(inside)
    lit = (down + across) / (np.hypot(down, across) + 1e-6)
    core = _ramp(inside, 0.03)
    depth = 0.04 + 0.3 * image * (1 - _ramp(inside, 0.08))
    rim = image - 0.25 * lit
    return core * depth + (1 - core) * rim, np.maximum(core, 0.7 * _ramp(inside + 0.025, 0.025))


def _patch(image: np.ndarray, rng: np.random.Generator, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = _blob(image, rng, rng.uniform(0.12, 0.22), ragged=0.15)
    likeness = rng.uniform(0.4, 0.9)
    shift = image.mean((1, 2), keepdims=True) - foreign.mean((1, 2), keepdims=True)
    return (foreign + likeness * shift).clip(0, 1), _ramp(inside, 0.05)


def _worn(image: np.ndarray, rng: np.random.Generator, foreign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    inside = _blob(image, rng, rng.uniform(0.16, 0.26), ragged=0.2)
    pixels = Image.fromarray((image * 255).round().astype(np.uint8).transpose(1, 2, 0))
    blurred = pixels.filter(ImageFilter.GaussianBlur(0.05 * min(pixels.size)))
    smooth = np.asarray(blurred, dtype=np.float32).transpose(2, 0, 1) / 255
    opacity = _ramp(inside, 0.07)
    haze = rng.uniform(0.08, 0.2) if _contrast(image, opacity) > 0 else -rng.uniform(0, 0.1)
    return 0.85 * smooth + haze, opacity


KINDS: dict[str, Painter] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "patch": _patch,
    "worn": _worn,
    "crack": _crack,
}
"""The kinds of defect, by name."""


def _contrast(image: np.ndarray, opacity: np.ndarray) -> float:
    """+1 to paint brightly and -1 to paint darkly, whichever stands out more where the defect is."""
    under = (image.mean(0) * opacity).sum() / max(opacity.sum(), 1e-6)
    return 1.0 if under < 0.55 else -1.0


def _grain(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unevenness of a line: 0.6 to 1 at every pixel."""
    return rng.uniform(0.6, 1, image.shape[1:])


def _blob(image: np.ndarray, rng: np.random.Generator, radius: float, ragged: float) -> np.ndarray:
    """How far inside an irregular round outline each pixel lies; negative outside."""
    height, width = image.shape[1:]
    short = min(height, width)
    middle = rng.uniform(0.25, 0.75, 2)
    y = (np.arange(height)[:, None] + 0.5 - middle[0] * height) / short
    x = (np.arange(width)[None] + 0.5 - middle[1] * width) / short
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.5)
    along = (x * np.cos(turn) + y * np.sin(turn)) / stretch
    across = (y * np.cos(turn) - x * np.sin(turn)) * stretch
    angle = np.arctan2(across, along)
    outline = np.ones_like(angle)
    for waves in range(2, 8):
        outline += rng.normal(0, ragged / waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return radius * outline - np.hypot(along, across)


def _ramp(inside: np.ndarray, edge: float) -> np.ndarray:
    """Rises smoothly from 0 at the outline to 1 at `edge` inside it."""
    t = (inside / max(edge, 1.5 / min(inside.shape))).clip(0, 1)
    return t * t * (3 - 2 * t)


def _wander(start: np.ndarray, heading: float, steps: int, rng: np.random.Generator) -> np.ndarray:
    """A jagged path: (steps + 1, 2) points, row and column as shares of the side."""
    headings = heading + np.cumsum(rng.normal(0, 0.12, steps)) + rng.normal(0, 0.5, steps)
    lengths = rng.uniform(0.03, 0.06, steps)
    moves = lengths[:, None] * np.stack([np.sin(headings), np.cos(headings)], axis=1)
    return start + np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])


def _draw(image: np.ndarray, strokes: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Opacity of lines of changing width, smooth at the edges.

    Args:
        image: The picture to draw on, for its size.
        strokes: For each line its points (n, 2), row and column, and its widths (n,), as shares of the side.
    """
    height, width = image.shape[1:]
    scale = np.array([height, width]) * _SUPERSAMPLING
    canvas = Image.new("L", (int(scale[1]), int(scale[0])))
    pen = ImageDraw.Draw(canvas)
    for points, widths in strokes:
        ends = [(float(x), float(y)) for y, x in points * scale]
        thick = np.maximum(widths * min(scale), _SUPERSAMPLING)
        for (x0, y0), (x1, y1), w in zip(ends[:-1], ends[1:], thick, strict=False):
            pen.line((x0, y0, x1, y1), fill=255, width=round(w))
            pen.ellipse((x0 - w / 2, y0 - w / 2, x0 + w / 2, y0 + w / 2), fill=255)
    reduced = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(reduced, dtype=np.float32) / 255
