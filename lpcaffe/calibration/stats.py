"""TensorStats: what is remembered of a tensor.

Statistics merge: `a + b` describes the values of both, in any order, to the same bits, so calibration can be split over
batches, processes or machines. Only counts and extremes are kept, no floating-point sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TensorStats:
    """Number of values, the smallest and the largest. No values yet: count 0, min and max 0."""

    count: int = 0
    min: float = 0.0
    max: float = 0.0

    @property
    def abs_max(self) -> float:
        """The largest magnitude."""
        return max(abs(self.min), abs(self.max))

    @classmethod
    def of(cls, values: np.ndarray) -> TensorStats:
        """The statistics of an array; NaN makes min and max NaN."""
        if not values.size:
            return cls()
        return cls(int(values.size), float(values.min()), float(values.max()))

    def __add__(self, other: TensorStats) -> TensorStats:
        if not (self.count and other.count):
            return self if self.count else other
        return TensorStats(self.count + other.count, min(self.min, other.min), max(self.max, other.max))
