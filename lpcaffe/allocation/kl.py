"""Allocation by the Kullback-Leibler divergence, TensorRT's calibration.

The histogram of |x|, mirrored, has 2001 bins over -max |x| .. max |x|, the middle one around 0. A candidate keeps the
2 i + 1 bins in the middle:

    P    their counts, what lies outside added to the outermost bin of its side
    Q    the counts inside quantized to as many levels as the format has, 2^width - 1: groups of floor((2 i + 1) /
         levels) bins; each bin of a group gets the group's count by the number of its bins where P is not 0. What is
         left over at the end counts in the last group, and gets nothing itself

In both, zeros become 0.0001 and what that adds is taken off the others. The candidate of the least
KL(P || Q) = sum p ln(p / q) wins, the smallest of equals; the threshold is the outer edge of its bins.

Source: Migacz, "8-bit inference with TensorRT", GTC 2017, as onnxruntime carries it out
(`onnxruntime.quantization.calibrate`, which has it from MXNet), step by step, so the thresholds are the same. Counts
are scaled to 2^30 in all first: the constant 0.0001 means the same for any number of images then, and onnxruntime's
truncation of Q to integers changes nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.numbers.qformat import QFormat

Floats = NDArray[np.float64]

SIDE = 1000  # bins on either side of the middle one
_TOTAL = 1 << 30
_SMALLEST = 1e-4
_EQUAL = 1e-6  # divergences no further apart differ by rounding alone, or might as well


@method("kl")
def kl(tensor: Tensor, width: int) -> QFormat:
    """The range at which quantizing changes the distribution of |x| least (Kullback-Leibler divergence, TensorRT).

    The smallest power-of-two range that holds the threshold of the least divergence. From 11 bits on there are more
    levels than bins, so quantizing changes nothing and the method is `max`. So it is for a tensor of fewer values than
    bins, whose histogram is holes for the most part. See the module for the procedure.
    """
    largest, bins = tensor.stats.abs_max, 2 * SIDE + 1
    if largest == 0 or bins < 2**width - 1 or tensor.stats.count < bins:
        return QFormat.holding(largest, width)
    kept = best_half_width(mirrored(tensor.stats.histogram(bins)), 2**width - 1)
    return QFormat.holding(largest * ((2 * kept + 1) / bins), width)


def mirrored(magnitudes: Floats) -> Floats:
    """A histogram of n = 2 s + 1 equal bins of |x| as one of x with n bins, scaled to 2^30 counts in all.

    The middle bin spans -max / n .. max / n and takes the first bin of |x|; the others take two each, half on either
    side.
    """
    sides = magnitudes[1:].reshape(-1, 2).sum(1) / 2
    both = np.concatenate([sides[::-1], magnitudes[:1], sides])
    scaled: Floats = np.rint(both * (_TOTAL / both.sum()))
    return scaled


def best_half_width(counts: Floats, levels: int) -> int:
    """How many bins on either side of the middle one to keep: the smallest i of the least divergence."""
    found = divergences(counts, levels)
    return levels // 2 + int(np.argmax(found <= found.min() + _EQUAL))


def divergences(counts: Floats, levels: int) -> Floats:
    """KL(P || Q) of i = levels // 2, ..., half the bins; infinity where nothing is inside."""
    middle = counts.size // 2
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts != 0)])
    kept = range(levels // 2, middle + 1)
    return np.array([_divergence(counts, sums, filled, levels, middle - i, middle + i + 1) for i in kept])


def _divergence(counts: Floats, sums: Floats, filled: NDArray[np.int64], levels: int, start: int, end: int) -> float:
    """KL(P || Q) of the bins from `start` to `end`, from the cumulative sums of counts and of bins that are not 0."""
    p = counts[start:end].copy()
    merged = p.size // levels
    edges = start + merged * np.arange(levels + 1)
    groups = sums[edges[1:]] - sums[edges[:-1]]
    groups[-1] += sums[end] - sums[edges[-1]]
    spread = filled[edges[1:]] - filled[edges[:-1]]
    # The outermost bins of P are not 0 where outliers join them.
    outliers = sums[start], sums[-1] - sums[end]
    for at, group, outside in ((0, 0, outliers[0]), (-1, levels - 1, outliers[1])):
        inside = at == 0 or edges[-1] == end
        spread[group] += int(inside and p[at] == 0 and outside > 0)
        p[at] += outside
    q = np.zeros(p.size)
    q[: merged * levels] = np.repeat(np.divide(groups, spread, out=np.zeros(levels), where=spread > 0), merged)
    smooth_p, smooth_q = _smoothed(p), _smoothed(q)
    if smooth_p is None or smooth_q is None:
        return math.inf
    smooth_p /= smooth_p.sum()
    smooth_q /= smooth_q.sum()
    return float(np.sum(smooth_p * np.log(smooth_p / smooth_q)))


def _smoothed(p: Floats) -> Floats | None:
    """Zeros replaced by a small number, the sum kept; None where all are zero."""
    zero = p == 0
    zeros = int(np.count_nonzero(zero))
    if zeros == p.size:
        return None
    return np.where(zero, _SMALLEST, p - _SMALLEST * zeros / (p.size - zeros))
