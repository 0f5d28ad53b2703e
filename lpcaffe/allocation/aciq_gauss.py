"""Analytical clipping for integer quantization (ACIQ) of values that follow a normal distribution."""

from __future__ import annotations

import math

from lpcaffe.allocation.clipping import check_constants, clip_value, nearest_pow2_range, published
from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.numbers.qformat import QFormat

# The published multipliers by bits, from 1 on: of the full range, and of the half range of a ReLU.
_FULL = (1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92)
_HALF = (1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92, 4.2)


@method("aciq-gauss")
def aciq_gauss(tensor: Tensor, width: int, *, constants: str = "exact") -> QFormat:
    """The range of least expected squared error if the values follow a normal distribution.

    As `aciq-laplace`, with alpha = std times the root of the derivative of the expected error,

        alpha erfc(alpha / sqrt 2) - sqrt(2 / pi) exp(-alpha^2 / 2) + alpha / (3 * 4^width) = 0

    Banner, Nahshan, Soudry, NeurIPS 2019, arXiv:1810.05723. constants=paper takes the table of the paper's code: 8
    bits at most, 9 where a ReLU follows.
    """
    check_constants(constants)
    std = tensor.stats.std
    if std == 0:  # constant
        return QFormat.holding(tensor.stats.abs_max, width)
    half = tensor.half_range
    alpha = std * multiplier(width - half, half, constants=constants)
    return nearest_pow2_range(tensor, clip_value(tensor, alpha), width, lambda t: tail(t, std))


def multiplier(bits: int, half_range: bool = False, *, constants: str = "exact") -> float:
    """alpha / std of least error for 2^bits steps on -alpha .. alpha, or with `half_range` on 0 .. alpha.

    To 12 digits up to 26 bits. The derivative above rises and bends down, so Newton's iteration from 0 rises to the
    root without passing it.
    """
    if constants == "paper":
        return published(_HALF if half_range else _FULL, 1, bits, "aciq-gauss")
    rounding = 1 / (3 * 4.0 ** (bits + half_range))
    alpha = 0.0
    for _ in range(200):
        outside = math.erfc(alpha / math.sqrt(2))
        derivative = alpha * (outside + rounding) - math.sqrt(2 / math.pi) * math.exp(-alpha * alpha / 2)
        step = derivative / (outside + rounding)
        if alpha - step <= alpha:
            break
        alpha -= step
    return alpha


def tail(t: float, std: float) -> float:
    """The integral of (x - t)^2 over x > t of a normal distribution with mean 0."""
    z = t / std
    if abs(z) > 40:  # nothing beyond, or everything
        return 0.0 if z > 0 else std * std + t * t
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return std * std * ((1 + z * z) * math.erfc(z / math.sqrt(2)) / 2 - z * density)
