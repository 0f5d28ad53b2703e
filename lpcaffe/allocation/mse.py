"""Allocation by the mean squared error."""

from __future__ import annotations

from collections.abc import Iterator

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat


@method("mse")
def mse(tensor: Tensor, width: int) -> QFormat:
    """The least mean squared error: the bd that minimises the sum of (round_fp(x) - x)^2.

    Of equal errors the larger range wins. The sum is estimated from the histogram, whose bins hold their mean.
    """
    return min(candidates(tensor.stats, width), key=tensor.stats.squared_error)


def candidates(stats: TensorStats, width: int) -> Iterator[QFormat]:
    """Every format of a width that can have the least squared error, the largest range first.

    More range than the method `max` takes is of no use: the grid only gets coarser. Less range is of use only down to
    a point: of n values up to 1, a range of 2^-k costs more than 1/4 by cutting the largest, and gains at most 2^-k for
    each of the others, so k <= log2(n) + 2.
    """
    top = QFormat.holding(stats.abs_max, width)
    for less in range(stats.count.bit_length() + 3 if stats.abs_max else 1):
        yield QFormat(top.bd - less, top.ad + less)
