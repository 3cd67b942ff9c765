"""The report of a comparison: one HTML page that holds all it shows."""

from pinakes.report.page import write_report

__all__ = ["write_report"]
