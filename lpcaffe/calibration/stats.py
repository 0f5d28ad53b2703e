"""TensorStats: the statistics of a tensor.

Statistics merge: `a + b` describes the values of both, in any order and splitting, to the same bits, so calibration can
be split over batches, processes or machines. Only integers and extremes are kept, no floating-point sum: counts,
32 counters of large values, and a histogram whose bins give the count, mean and variance of their values (bins.py).

What is asked of the statistics afterwards (moments, quantiles, rounding errors) is computed from the bins. Inside a bin
the values are taken as spread evenly around the bin's mean, with the variance of the bin (density.py).
docs/statistics.md gives the errors as measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpcaffe.calibration.bins import COUNTERS, SIGN, Ints, Keys, fill
from lpcaffe.calibration.density import HistogramDensity
from lpcaffe.numbers.qformat import QFormat


def _none() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class TensorStats:
    """Count, extremes, counters and histogram of values, read as float32. No values yet: all zero and empty.

    exceed_counts   int64[32]: exceed_counts[m] is the exact number of x > 2^m - 1, signed x
    keys    uint16[k], ascending: the bins that hold something, sign, exponent and top five mantissa bits of a float32
    counts  int64[k]: how many values each holds
    sums    int64[k]: the sum of their low 18 mantissa bits
    squares int64[k]: the sum of the squares of the low bits in units of 16, rounded: of ((low + 8) >> 4)^2

    NaN makes min and max NaN. NaN and infinities are counted, but are in no bin.
    """

    count: int = 0
    min: float = 0.0
    max: float = 0.0
    exceed_counts: Ints = field(default_factory=lambda: np.zeros(COUNTERS, np.int64))
    keys: Keys = field(default_factory=lambda: np.zeros(0, np.uint16))
    counts: Ints = field(default_factory=_none)
    sums: Ints = field(default_factory=_none)
    squares: Ints = field(default_factory=_none)

    @classmethod
    def of(cls, values: ArrayLike) -> TensorStats:
        """The statistics of an array of any shape."""
        with np.errstate(over="ignore"):
            x = np.asarray(values, np.float32)
        if not x.size:
            return cls()
        size, infinite = x.size, 0
        low, high = float(x.min()) + 0.0, float(x.max()) + 0.0  # no -0.0
        if not math.isfinite(low + high):
            infinite = int(np.count_nonzero(x == np.inf))
            x = x[np.isfinite(x)]
        exceed_counts, keys, counts, sums, squares = fill(x)
        return cls(size, low, high, exceed_counts + infinite, keys, counts, sums, squares)

    def __add__(self, other: TensorStats) -> TensorStats:
        if not (self.count and other.count):
            return self if self.count else other
        if np.array_equal(self.keys, other.keys):
            keys, bins = self.keys, [mine + theirs for mine, theirs in zip(self._sums, other._sums, strict=True)]
        else:
            keys = np.union1d(self.keys, other.keys)
            bins = [np.zeros(keys.size, np.int64) for _ in self._sums]
            for stats in (self, other):
                places = np.searchsorted(keys, stats.keys)
                for whole, part in zip(bins, stats._sums, strict=True):
                    whole[places] += part
        low, high = np.minimum(self.min, other.min), np.maximum(self.max, other.max)  # which keep NaN
        return TensorStats(
            self.count + other.count, float(low), float(high), self.exceed_counts + other.exceed_counts, keys, *bins
        )

    @property
    def _sums(self) -> tuple[Ints, Ints, Ints]:
        return self.counts, self.sums, self.squares

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorStats):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    @property
    def abs_max(self) -> float:
        """The largest magnitude."""
        return max(abs(self.min), abs(self.max))

    @cached_property
    def _density(self) -> HistogramDensity:
        return HistogramDensity.of(self.keys, self.counts, self.sums, self.squares, self.min, self.max)

    @property
    def mean(self) -> float:
        """The arithmetic mean; 0 of nothing, as all moments."""
        return self._density.mean

    @property
    def mean_abs_dev(self) -> float:
        """The mean of |x - mean|, which is the scale of a Laplace distribution."""
        return self._density.deviation(self.mean)

    @property
    def std(self) -> float:
        """The population's standard deviation."""
        return math.sqrt(self._density.central(2))

    @property
    def kurtosis(self) -> float:
        """The excess kurtosis: 0 for a normal distribution, 3 for a Laplace one, 0 when nothing varies."""
        variance = self._density.central(2)
        return self._density.central(4) / variance**2 - 3 if variance else 0.0

    @property
    def signal(self) -> float:
        """The sum of x^2."""
        return self._density.signal

    def rectified(self) -> TensorStats:
        """The statistics of max(x, 0), exactly."""
        positive, negative = self._halves
        zero = np.zeros(min(negative.count, 1), np.int64)
        zeros = TensorStats(
            negative.count, keys=zero.astype(np.uint16), counts=zero + negative.count, sums=zero, squares=zero
        )
        return positive + zeros

    @cached_property
    def _halves(self) -> tuple[TensorStats, TensorStats]:
        """The statistics of the x >= 0 and of the magnitudes of the others, but for the extremes in between, 0 here."""
        first = int(np.searchsorted(self.keys, SIGN))
        low, high = float(np.maximum(self.min, 0.0)), float(np.maximum(self.max, 0.0))
        count = int(self.counts[first:].sum())
        own = (part[:first] for part in self._sums)
        positive = TensorStats(self.count - count, low, high, self.exceed_counts, self.keys[:first], *own)
        low, high = float(np.maximum(-self.max, 0.0)), float(np.maximum(-self.min, 0.0))
        own = (part[first:] for part in self._sums)
        return positive, TensorStats(
            count, low, high, np.zeros_like(self.exceed_counts), self.keys[first:] - SIGN, *own
        )

    @cached_property
    def _magnitudes(self) -> HistogramDensity:
        positive, negative = self._halves
        return (positive + negative)._density

    def quantile(self, p: float) -> float:
        """The magnitude below which the fraction `p` of all |x| lies, interpolated inside a bin; abs_max for p = 1."""
        return min(self._magnitudes.quantile(p), self.abs_max) if p < 1 else self.abs_max

    def beyond(self, limit: float) -> float:
        """How many |x| > limit, interpolated in the bin that the limit divides."""
        return self._density.beyond(limit) if limit < self.abs_max else 0.0

    def squared_error(self, fmt: QFormat) -> float:
        """The sum of (round_fp(x) - x)^2 in a format, half away from zero and saturating at +-fmt.max, estimated."""
        return self._density.squared_error(fmt)

    def histogram(self, bins: int) -> NDArray[np.float64]:
        """How many |x| lie in each of `bins` equal intervals of [0, abs_max]; their sum is that of the counts."""
        return self._magnitudes.histogram(bins, self.abs_max)
