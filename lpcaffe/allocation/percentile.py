"""Allocation by a percentile of the magnitudes."""

from __future__ import annotations

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


@method("percentile")
def percentile(tensor: Tensor, width: int, *, percent: float = 99.99) -> QFormat:
    """Fewest integer bits that hold the magnitude below which a given percentage of the magnitudes lies.

    The smallest bd for which round(q 2^ad) <= 2^(width - 1) - 1, where q is the percentile of |x|; 100 is the method
    `max`. Percentiles of 99.9 to 99.9999 are the calibrations of Wu et al. 2020, "Integer quantization for deep
    learning inference", section 4.
    """
    if not 0 < percent <= 100:
        raise PlanError(f"percent: expected 0 < percent <= 100, got {percent}", hint="99.9 leaves out one in 1000")
    return QFormat.holding(tensor.stats.quantile(percent / 100), width)
