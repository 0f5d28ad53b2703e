"""Analytical clipping for integer quantization (ACIQ) of values that follow a Laplace distribution."""

from __future__ import annotations

import math

from lpcaffe.allocation.clipping import check_constants, clip_value, nearest_pow2_range, published
from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.numbers.qformat import QFormat

# The published multipliers by bits, from 0 on: of the full range, and of the half range of a ReLU.
_FULL = (1.05, 1.86, 2.83, 3.89, 5.03, 6.2, 7.41, 8.64, 9.89)
_HALF = (1.86, 2.83, 3.89, 5.02, 6.2, 7.41, 8.64, 9.89, 11.16)


@method("aciq-laplace")
def aciq_laplace(tensor: Tensor, width: int, *, constants: str = "exact") -> QFormat:
    """The range of least expected squared error if the values follow a Laplace distribution.

    The ideal clip is |mean| + alpha, alpha = b W0(3 * 4^width), b = mean |x - mean|; where a ReLU follows it is
    max(mean, 0) + alpha (b and mean are those before it). It is at most what was observed. Of the two power-of-two
    ranges next to it, the one with the smaller expected error (`clipping.py`) is taken.
    Banner, Nahshan, Soudry: "Post training 4-bit quantization of convolutional networks for rapid deployment",
    NeurIPS 2019, arXiv:1810.05723, equation 6, solved in closed form. constants=paper takes the table of the paper's
    code instead of W0: 8 bits at most, 9 where a ReLU follows.
    """
    check_constants(constants)
    b = tensor.stats.mean_abs_dev
    if b == 0:  # constant
        return QFormat.holding(tensor.stats.abs_max, width)
    half = tensor.half_range
    alpha = b * multiplier(width - half, half, constants=constants)
    return nearest_pow2_range(tensor, clip_value(tensor, alpha), width, lambda t: tail(t, b))


def multiplier(bits: int, half_range: bool = False, *, constants: str = "exact") -> float:
    """alpha / b of least error for 2^bits steps on -alpha .. alpha, or with `half_range` on 0 .. alpha.

    W0(3 * 4^bits), and W0(3 * 4^(bits + 1)) for the half range; to the last bit or two of a float64.
    """
    if constants == "paper":
        return published(_HALF if half_range else _FULL, 0, bits, "aciq-laplace")
    return lambert_w(3 * 4.0 ** (bits + half_range))


def lambert_w(z: float) -> float:
    """W0(z) for z > 0, the w with w e^w = z, by Halley's iteration on w + ln w = ln z."""
    w = math.log1p(z) * 0.7
    for _ in range(20):
        residual = w + math.log(w / z)
        slope, bend = 1 + 1 / w, -1 / w**2
        step = residual / (slope - residual * bend / (2 * slope))
        w -= step
        if abs(step) <= 1e-16 * w:
            break
    return w


def tail(t: float, b: float) -> float:
    """The integral of (x - t)^2 over x > t of a Laplace distribution with mean 0: b^2 e^(-t / b) for t >= 0."""
    beyond = b * b * math.exp(-abs(t) / b)
    return beyond if t >= 0 else 2 * b * b + t * t - beyond
