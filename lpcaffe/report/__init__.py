"""What a network is, what was done to it, and how good it is: plain values first, then tables for a terminal."""

from lpcaffe.report.conversion_report import ConversionReport
from lpcaffe.report.diff import DiffReport, diff
from lpcaffe.report.inspection import inspect

__all__ = ["ConversionReport", "DiffReport", "diff", "inspect"]
