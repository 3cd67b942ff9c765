"""Means over seeds with their 95 % intervals."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval.

    Args:
        values: One value a seed; those that are not finite are left out of mean and interval.

    Source: Student's t: half the interval is t(0.975, n - 1) s / sqrt(n), with s the standard deviation of the n
        values.

    Example:
        >>> round(Estimate((1.0, 2.0, 3.0)).half_width, 4)
        2.4841
        >>> Estimate((1.0,)).half_width is None
        True
    """

    values: tuple[float, ...] = ()

    @cached_property
    def finite(self) -> tuple[float, ...]:
        """The values that the mean is of."""
        return tuple(value for value in self.values if math.isfinite(value))

    @cached_property
    def mean(self) -> float:
        """The mean, or NaN if no value is finite."""
        return math.fsum(self.finite) / len(self.finite) if self.finite else math.nan

    @cached_property
    def half_width(self) -> float | None:
        """Half the width of the 95 % interval of the mean, or None for fewer than two values."""
        count = len(self.finite)
        if count < 2:
            return None
        variance = math.fsum((value - self.mean) ** 2 for value in self.finite) / (count - 1)
        return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / count)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end of the 95 % interval, or None for fewer than two values."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)

    def as_json(self) -> dict[str, Any]:
        """Mean, half width and values as plain JSON values; None stands for NaN and for no interval."""
        return {
            "mean": or_none(self.mean),
            "half_width": self.half_width,
            "values": [or_none(value) for value in self.values],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Estimate":
        """The inverse of `as_json`."""
        return cls(tuple(or_nan(values["values"])))


def or_none(value: float) -> float | None:
    """The value, or None, which JSON can hold, if it is not finite."""
    return value if math.isfinite(value) else None


def or_nan(values: Iterable[float | None]) -> list[float]:
    """The values with NaN for None."""
    return [math.nan if value is None else value for value in values]
