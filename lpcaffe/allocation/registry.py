"""The table of allocation methods. A method is a function of a tensor's statistics and a width in bits to a format."""

from __future__ import annotations

from collections.abc import Callable

from lpcaffe.calibration import TensorStats
from lpcaffe.errors import PlanError
from lpcaffe.qformat import QFormat

Method = Callable[[TensorStats, int], QFormat]

METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a method under its name on the command line."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def method_named(name: str) -> Method:
    """The method of a name; PlanError that lists the known ones when there is none."""
    if name not in METHODS:
        raise PlanError(f"there is no allocation method {name!r}", hint=f"known are {', '.join(sorted(METHODS))}")
    return METHODS[name]
