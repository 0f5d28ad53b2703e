"""Allocation by the largest magnitude."""

from __future__ import annotations

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.numbers.qformat import QFormat


@method("max")
def max_abs(tensor: Tensor, width: int) -> QFormat:
    """Fewest integer bits that hold the largest magnitude without saturating.

    The smallest bd for which round(max |x| 2^ad) <= 2^(width - 1) - 1, with ad = width - bd.
    """
    return QFormat.holding(tensor.stats.abs_max, width)
