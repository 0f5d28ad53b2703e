"""Choosing formats: one file a method."""

from lpcaffe.allocation import max_abs  # noqa: F401  (importing a method registers it)
from lpcaffe.allocation.allocate import allocate
from lpcaffe.allocation.registry import METHODS, method

__all__ = ["METHODS", "allocate", "method"]
