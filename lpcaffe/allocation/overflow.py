"""Allocation by the fraction of values that may saturate."""

from __future__ import annotations

import math

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


@method("overflow")
def overflow(tensor: Tensor, width: int, *, fraction: float = 0.0) -> QFormat:
    """Fewest integer bits with which at most a given fraction of the values saturates.

    The smallest bd for which #{x: |x| >= max + step / 2} <= fraction * #{x}: both signs count, and a value that rounds
    to the largest one does not. This is what ADaPTION's threshold was to be (see the method `adaption`). With fraction
    0 it is the method `max`. Where all but the zeros may saturate no range is the smallest, and the format is that of
    zeros, Q1.(width - 1). How many values lie beyond a bound comes from the histogram, exact but for the one bin that
    the bound cuts.
    """
    if not 0 <= fraction < 1:
        raise PlanError(f"fraction: expected 0 <= fraction < 1, got {fraction}", hint="0.01 is one value in a hundred")
    fmt = QFormat.holding(tensor.stats.abs_max, width)
    allowed = fraction * tensor.stats.count
    if allowed == 0:
        return fmt
    if tensor.stats.beyond(0.0) <= allowed:
        return QFormat(1, width - 1)
    while True:
        narrower = QFormat(fmt.bd - 1, fmt.ad + 1)
        saturating = math.nextafter(narrower.max + narrower.step / 2, 0.0)  # a tie rounds away from zero
        if tensor.stats.beyond(saturating) > allowed:
            return fmt
        fmt = narrower
