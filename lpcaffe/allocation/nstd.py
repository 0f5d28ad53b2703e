"""Allocation by a number of standard deviations."""

from __future__ import annotations

from lpcaffe.allocation.clipping import clip_value
from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


@method("nstd")
def nstd(tensor: Tensor, width: int, *, n: float = 3.0) -> QFormat:
    """Fewest integer bits that hold the mean and n standard deviations beyond it.

    The smallest format that holds |mean| + n std, or max(mean, 0) + n std where a ReLU follows, at most what was
    observed; mean and std are those before the ReLU. (`-c Nstd` of the cnn-quantization of Banner et al. 2019.)
    """
    if not 0 < n < float("inf"):
        raise PlanError(f"n: expected a number of standard deviations above 0, got {n}")
    return QFormat.holding(clip_value(tensor, n * tensor.stats.std), width)
