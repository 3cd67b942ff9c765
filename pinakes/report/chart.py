"""Accuracy against latency as an inline SVG that takes its colours from the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from pinakes.lab import notation
from pinakes.lab.leaderboard import Column, Leaderboard

WIDTH, HEIGHT = 560, 360
LEFT, RIGHT, TOP, BOTTOM = 54, 16, 30, 46
LABELLED = 14
LINE = 18
GAP = 8
"""From the middle of a point to what is written beside it."""
CHARACTER = 7.8
"""Width of a character of a name, on average, where it is written largest: on a phone."""
ROWS = 8
"""How many lines above and below a point are tried for its name."""


@dataclass(frozen=True)
class Point:
    """A method in the plot: its latency in milliseconds, its metric, and half its interval."""

    slug: str
    x: float
    y: float
    half: float | None


@dataclass(frozen=True)
class Axis:
    """Maps values to places between `start` and `end`, on a linear or a logarithmic scale."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is drawn."""
        low, high, at = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if self.logarithmic:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if math.log10(self.high / self.low) < 3 else (1,)
            found = [step * 10.0**exponent for exponent in exponents for step in steps]
        else:
            raw = (self.high - self.low) / 5
            base = 10.0 ** math.floor(math.log10(raw))
            step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw)
            found = [
                step * turn for turn in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
            ]
        return [value for value in found if self.low <= value <= self.high]


def front(points: Sequence[Point], *, higher_is_better: bool) -> list[Point]:
    """The points that no other beats in both latency and metric, the fastest first."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y if higher_is_better else p.y)):
        if not kept or (point.y > kept[-1].y if higher_is_better else point.y < kept[-1].y):
            kept.append(point)
    return kept


def accuracy_against_latency(board: Leaderboard) -> Markup:
    """The plot, or nothing where fewer than two methods have both figures."""
    column = board.headline
    points = [
        Point(row.slug, row.predict_milliseconds.mean, found.mean, found.half_width)
        for row in board.ranked
        if math.isfinite((found := row.metric(column.name)).mean)
        and math.isfinite(row.predict_milliseconds.mean)
        and row.predict_milliseconds.mean > 0
    ]
    if len(points) < 2:
        return Markup()
    horizontal, vertical = _horizontal(points), _vertical(points, column)
    best = front(points, higher_is_better=column.higher_is_better)
    parts = [
        _frame(column, horizontal, vertical),
        _line(best, horizontal, vertical),
        *(_dot(point, horizontal, vertical, point in best) for point in points),
        *_labels(points if len(points) <= LABELLED else best, horizontal, vertical),
    ]
    title = f"{column.label} against milliseconds an image, one point a method"
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<clipPath id="plot"><rect x="{}" y="{}" width="{}" height="{}"/></clipPath>{}</svg>'
    ).format(
        WIDTH, HEIGHT, title, LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM, Markup("").join(parts)
    )


def _horizontal(points: Sequence[Point]) -> Axis:
    low, high = min(p.x for p in points), max(p.x for p in points)
    room = (high / low) ** 0.12 * 1.15
    return Axis(low / room, high * room, LEFT, WIDTH - RIGHT, logarithmic=True)


def _vertical(points: Sequence[Point], column: Column) -> Axis:
    low, high = min(p.y for p in points), max(p.y for p in points)
    spread = high - low or abs(high) * 0.1 or 1.0
    widest = max((p.half for p in points if p.half is not None), default=0.0)
    room = 0.12 * spread + min(widest, 0.6 * spread)
    ends = (HEIGHT - BOTTOM, TOP) if column.higher_is_better else (TOP, HEIGHT - BOTTOM)
    return Axis(low - room, high + room, *ends)


def _frame(column: Column, horizontal: Axis, vertical: Axis) -> Markup:
    bottom = HEIGHT - BOTTOM
    places = [vertical.place(value) for value in vertical.ticks()]
    lines = [Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT) for y in places]
    lines += [
        Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 8, y + 4, f"{value:.6g}"
        )
        for y, value in zip(places, vertical.ticks(), strict=True)
    ]
    lines += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            horizontal.place(value), bottom + 18, f"{value:.6g}"
        )
        for value in horizontal.ticks()
    ]
    better = "higher is better" if column.higher_is_better else "lower is better, upwards"
    lines += [
        Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, bottom, WIDTH - RIGHT),
        Markup('<text class="name" x="0" y="14">{}, {}</text>').format(column.label, better),
        Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>').format(
            WIDTH - RIGHT, HEIGHT - 6, "milliseconds an image, further left is faster"
        ),
    ]
    return Markup("").join(lines)


def _line(best: Sequence[Point], horizontal: Axis, vertical: Axis) -> Markup:
    path = " ".join(f"{horizontal.place(p.x):.1f},{vertical.place(p.y):.1f}" for p in best)
    return Markup('<polyline class="front" points="{}"/>').format(path)


def _dot(point: Point, horizontal: Axis, vertical: Axis, best: bool) -> Markup:
    x, y = horizontal.place(point.x), vertical.place(point.y)
    whisker = Markup()
    if point.half:
        ends = vertical.place(point.y - point.half), vertical.place(point.y + point.half)
        whisker = Markup('<path class="whisker" clip-path="url(#plot)" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
            x, *ends
        )
    words = f"{point.slug}: {notation.number(point.y)}, {notation.milliseconds(point.x)} ms an image"
    return Markup(
        '<g>{}<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"><title>{}</title></circle></g>'
    ).format(whisker, "dot best" if best else "dot", x, y, words)


def _labels(points: Sequence[Point], horizontal: Axis, vertical: Axis) -> list[Markup]:
    """Names beside the points, each where it covers neither another name nor another point, if there is such a place.

    One that had to go further away is joined to its point by a line.
    """
    dots = [(horizontal.place(point.x), vertical.place(point.y)) for point in points]
    labels: list[Markup] = []
    taken: list[Box] = []
    for point, (x, y) in sorted(zip(points, dots, strict=True), key=lambda each: each[1][1]):
        covered = [*taken, *(Box.around(*dot) for dot in dots if dot != (x, y))]
        box = _free_place(x, y, CHARACTER * len(point.slug), covered)
        taken.append(box)
        end = box.right < x
        if abs(box.middle - y) > LINE:
            labels.append(
                Markup('<path class="leader" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(
                    x, y, box.right if end else box.left, box.middle
                )
            )
        labels.append(
            Markup('<text class="label" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
                box.right if end else box.left, box.middle + 4, "end" if end else "start", escape(point.slug)
            )
        )
    return labels


@dataclass(frozen=True)
class Box:
    """A rectangle of the plot."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float) -> "Box":
        """What a dot covers."""
        return cls(x - GAP, y - GAP, x + GAP, y + GAP)

    @property
    def middle(self) -> float:
        """Half way down."""
        return (self.top + self.bottom) / 2

    def meets(self, other: "Box") -> bool:
        """Whether both share some of the plot."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def _free_place(x: float, y: float, width: float, covered: Sequence[Box]) -> Box:
    """The nearest place for a name of that width beside a point, or beside it all the same if none is free."""
    rows = [0, *(down for away in range(1, ROWS) for down in (-away, away))]
    found = [
        Box(left, y + (down - 0.5) * LINE, left + width, y + (down + 0.5) * LINE)
        for down in rows
        for left in (x + GAP + 2, x - GAP - 2 - width)
    ]
    inside = [
        box
        for box in found
        if box.left >= LEFT
        and box.right <= WIDTH
        and box.top >= TOP - LINE / 2
        and box.bottom <= HEIGHT - BOTTOM
    ]
    free = [box for box in inside if not any(box.meets(other) for other in covered)]
    return [*free, *inside, *found][0]
