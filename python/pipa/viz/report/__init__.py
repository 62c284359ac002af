"""The report: one HTML file that needs nothing else. See :mod:`pipa.viz` for how to call it."""

from pipa.viz.report.data import Panel, Run, Section, SeedTable
from pipa.viz.report.page import write_report

__all__ = ["Panel", "Run", "Section", "SeedTable", "write_report"]
