"""How figures are written for people: a few digits, a unit, a dash for what is not there."""

import math

from pinakes.lab.intervals import Estimate

MISSING = "–"


def number(value: float) -> str:
    """A value with about three digits that tell, or a dash if it is not finite.

    Example:
        >>> number(0.98765), number(-12.345), number(-0.0001), number(float("nan"))
        ('0.988', '−12.3', '0.000', '–')
    """
    return f"{value:z.{_decimals(value)}f}".replace("-", "−") if math.isfinite(value) else MISSING


def estimate(found: Estimate) -> str:
    """A mean with half its 95 % interval.

    Example:
        >>> estimate(Estimate((0.9, 0.92, 0.94)))
        '0.920 ± 0.050'
        >>> estimate(Estimate((0.9,)))
        '0.900'
    """
    if found.half_width is None:
        return number(found.mean)
    return f"{number(found.mean)} ± {found.half_width:.{_decimals(found.mean)}f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it.

    Example:
        >>> seconds(0.04), seconds(12.34), seconds(200), seconds(8000)
        ('40 ms', '12.3 s', '3.3 min', '2.2 h')
    """
    if not math.isfinite(value):
        return MISSING
    for limit, unit, name in ((1, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min")):
        if value < limit:
            return f"{value / unit:.{0 if name == 'ms' else 1}f} {name}"
    return f"{value / 3600:.1f} h"


def milliseconds(value: float) -> str:
    """Milliseconds with two or three digits.

    Example:
        >>> milliseconds(0.1234), milliseconds(4.56), milliseconds(345.6)
        ('0.12', '4.6', '346')
    """
    if not math.isfinite(value):
        return MISSING
    return f"{value:.{2 if value < 1 else 1 if value < 100 else 0}f}"


def count(value: float) -> str:
    """A number of things, abbreviated from ten thousand up.

    Example:
        >>> count(812), count(1_234_567), count(25_600_000)
        ('812', '1.2 M', '25.6 M')
    """
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= max(unit, 1e4):
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """A number of bytes in decimal units.

    Example:
        >>> size(900), size(1_340_000)
        ('900 B', '1.3 MB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def _decimals(value: float) -> int:
    magnitude = abs(value)
    return 3 if magnitude < 10 else 1 if magnitude < 1000 else 0
