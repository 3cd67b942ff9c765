"""A paper without a claim."""

from pinakes.method import Method

__all__ = ["Method"]
