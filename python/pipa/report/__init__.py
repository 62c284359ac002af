"""The report: one HTML file that needs nothing else. See :mod:`pipa.viz` for how to call it."""

from pipa.report.data import Panel, Run, Section, SeedTable
from pipa.report.page import write_report

__all__ = ["Panel", "Run", "Section", "SeedTable", "write_report"]
