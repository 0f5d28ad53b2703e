"""A histogram read as a density: where the values inside a bin are taken to be.

The mean m and the variance v of a bin are known. Its values are taken as spread evenly over m -+ sqrt(3 v), which has
this mean and this variance; two values are where they are, at m -+ sqrt(v), and one is at m.

Values that were on a grid before (pixels, numbers rounded before) are at no distance from a coarser or equal grid, and
at others than evenly spread ones from a finer grid. The sum of every bin is then a multiple of the grid's
step, and sums of other values are not: `grid` is the largest power of two that divides them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lpcaffe.calibration.bins import LOW_BITS, SIGN, Ints, Keys
from lpcaffe.numbers.qformat import QFormat

Floats = NDArray[np.float64]

# Of fewer bins than this the sums say too little about a grid.
_FEW = 8
# Grids finer than this part of a step make no difference to it.
_FINE = 2.0**-10


@dataclass(frozen=True, eq=False)
class HistogramDensity:
    """Bins by magnitude: `counts` values of each evenly spread over mean -+ half; `sign` is that of the values."""

    counts: Floats
    sign: Floats
    mean_of_bin: Floats  # of the magnitudes
    half: Floats
    inside: Floats  # the same, but not beyond the edges of the bin: for counting, which is exact there
    grid: float

    @classmethod
    def of(cls, keys: Keys, counts: Ints, sums: Ints, squares: Ints, low: float, high: float) -> HistogramDensity:
        """The density of a histogram, given the extremes of the tensor."""
        magnitudes = (keys & (SIGN - 1)).astype(np.int64)
        exponents, subs = magnitudes >> 5, magnitudes & 31
        ulp = np.exp2(np.maximum(exponents, 1) - 150.0)
        base = (np.where(exponents > 0, 32, 0) + subs) << LOW_BITS
        n = np.maximum(counts, 1)
        start, width = base * ulp, ulp * (1 << LOW_BITS)
        mean = start + ulp * (sums / n)
        negative = keys >= SIGN
        # The extremes as magnitudes: the largest on either side, the smallest where the tensor has one sign only.
        top = np.minimum(start + width, np.where(negative, -low, high))
        bottom = np.maximum(start, np.where(negative, -high, low))
        variance = np.maximum(256 * (squares / n) - (sums / n) ** 2, 0.0) * ulp**2
        # Values between two bounds vary no more than this (Bhatia and Davis); rounded squares may say otherwise.
        variance = np.minimum(variance, np.maximum((mean - bottom) * (top - mean), 0.0))
        half = np.where(counts == 1, 0.0, np.sqrt(3 * variance))
        totals = sums + counts * base  # in ulps; what the grid divides
        grid = 0.0
        nonzero = totals > 0
        if np.count_nonzero(nonzero) >= _FEW:
            grid = float((_lowest_bit(totals[nonzero]) * ulp[nonzero]).min())
        half[width <= grid] = 0.0
        n, sign, pair = counts.astype(np.float64), np.where(negative, -1.0, 1.0), counts == 2
        if pair.any():
            apart = half[pair] / math.sqrt(3)
            half[pair], n[pair] = 0.0, 1.0
            n, sign, half = (np.concatenate([part, part[pair]]) for part in (n, sign, half))
            mean = np.concatenate([mean, mean[pair] + apart])
            mean[: pair.size][pair] -= apart
            top, bottom = (np.concatenate([edge, edge[pair]]) for edge in (top, bottom))
        inside = np.clip(np.minimum(mean - bottom, top - mean), 0.0, half)
        return cls(n, sign, mean, half, inside, grid)

    @cached_property
    def total(self) -> float:
        """The number of values."""
        return float(self.counts.sum())

    @cached_property
    def mean(self) -> float:
        """The mean of all values."""
        return float((self.counts * self.sign * self.mean_of_bin).sum() / self.total) if self.total else 0.0

    @cached_property
    def signal(self) -> float:
        """The sum of the squares."""
        return float((self.counts * (self.mean_of_bin**2 + self.half**2 / 3)).sum())

    def central(self, order: int) -> float:
        """The central moment of order 2 or 4."""
        if not self.total:
            return 0.0
        d, h = (self.sign * self.mean_of_bin - self.mean) ** 2, self.half**2
        power = d + h / 3 if order == 2 else d * d + 2 * d * h + h * h / 5
        return float((self.counts * power).sum() / self.total)

    def deviation(self, center: float) -> float:
        """The mean of |x - center|."""
        if not self.total:
            return 0.0
        d = np.abs(self.sign * self.mean_of_bin - center)
        inside = d < self.half
        d[inside] = (d[inside] ** 2 / self.half[inside] + self.half[inside]) / 2
        return float((self.counts * d).sum() / self.total)

    @cached_property
    def _edges(self) -> tuple[Floats, Floats]:
        """Magnitudes, ascending, and how many |x| lie below each; linear in between."""
        order = np.argsort(self.mean_of_bin, kind="stable")
        mean, inside, counts = self.mean_of_bin[order], self.inside[order], self.counts[order]
        ends = np.cumsum(counts)
        knots = np.stack([mean - inside, mean + inside], axis=1).reshape(-1)
        return np.maximum.accumulate(knots), np.stack([ends - counts, ends], axis=1).reshape(-1)

    def quantile(self, p: float) -> float:
        """The magnitude that the fraction `p` does not exceed."""
        if not self.total:
            return 0.0
        knots, below = self._edges
        return float(np.interp(p * self.total, below, knots))

    def beyond(self, limit: float) -> float:
        """How many magnitudes exceed the limit."""
        start, width = self.mean_of_bin - self.inside, 2 * self.inside
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(width > 0, (start + width - limit) / width, start > limit)
        return float((self.counts * np.clip(part, 0.0, 1.0)).sum())

    def histogram(self, bins: int, top: float) -> Floats:
        """How many magnitudes lie in each of `bins` equal intervals of [0, top]."""
        if not self.total:
            return np.zeros(bins)
        edges = top * (np.arange(1, bins + 1) / bins)
        knots, below = self._edges
        cumulative = np.interp(edges, knots, below)
        cumulative[-1] = self.total
        return np.diff(cumulative, prepend=0.0)

    def squared_error(self, fmt: QFormat) -> float:
        """The sum of the squared rounding errors.

        In steps, a magnitude x goes to n = min(round(x), N) and errs by r = x - n. The integral of r^2 from 0 to x is
        n / 12 + r^3 / 3. On a grid of g steps, g < 1, a value stands for the g around it: the mean of r^2 over those
        is larger by g^2 / 12, and, where the value is a tie, smaller by g / 4, which n counts. For g >= 1 nothing errs
        but what saturates.
        """
        scale, top = math.ldexp(1.0, fmt.ad), float(fmt.code_max)
        grid = self.grid * scale
        x, h = self.mean_of_bin * scale, self.half * scale
        if grid >= 1:
            r = np.maximum(x - top, 0.0)
            error = r * r + np.where(r > 0, h * h / 3, 0.0)
            return float((self.counts * error).sum()) / scale**2
        if grid > _FINE:
            h = np.hypot(h, grid / 2)
        else:
            grid = 0.0
        upper, lower = x + h, x - h
        n, n1, n0 = (np.minimum(np.rint(value), top) for value in (x, upper, lower))
        error = (x - n) ** 2 + h * h / 3
        cut = (n1 > n0) & (h > _FINE**3)  # where values of a bin go to different n; by differences, so not for tiny h
        r1, r0 = (upper - n1)[cut], (lower - n0)[cut]
        error[cut] = ((n1 - n0)[cut] * (1 / 12 + grid**2 / 4) + (r1**3 - r0**3) / 3) / (2 * h[cut])
        return float((self.counts * (error - grid**2 / 12)).sum()) / scale**2


def _lowest_bit(integers: Ints) -> Ints:
    """The largest power of two that divides each, 0 for 0."""
    return integers & -integers
