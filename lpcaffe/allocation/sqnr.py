"""Allocation by the ratio of signal to noise that the next layer reads."""

from __future__ import annotations

from collections.abc import Callable

from lpcaffe.allocation.mse import candidates
from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


@method("sqnr")
def sqnr(tensor: Tensor, width: int, *, target: float | None = None) -> QFormat:
    """The largest ratio of signal to rounding noise of what the next layer reads; to a target, with the fewest bits.

    SQNR = 10 log10(sum y^2 / sum (y' - y)^2) in dB, y the values after the ReLU that follows and y' those after
    rounding and the ReLU. Without a ReLU this is the method `mse`. With one, errors of negative values do not count,
    and the range need not hold them. With a target in dB: the fewest bits, 2 to `width`, whose best format reaches it;
    `width` where none does.
    """
    if target is not None and not 0 <= target <= 1000:
        raise PlanError(f"target: expected 0 to 1000 decibels, got {target}", hint="six are about one bit")
    counted = tensor.read if tensor.half_range else tensor.stats
    noise, signal = _noise(tensor), tensor.read.signal
    if target is not None:
        for fewer in range(2, width):
            fmt = min(candidates(counted, fewer), key=noise)
            if signal >= noise(fmt) * 10 ** (target / 10):
                return fmt
    return min(candidates(counted, width), key=noise)


def _noise(tensor: Tensor) -> Callable[[QFormat], float]:
    """The sum of squared errors after the ReLU that follows, by format.

    After a leaky ReLU errors of negative values count by its slope squared, which the sums of squares before and after
    it tell (of a PReLU, the mean over its channels).
    """
    if tensor.rectified is None:
        return tensor.stats.squared_error
    if tensor.half_range:
        return tensor.rectified.squared_error
    positive, both = tensor.stats.rectified(), tensor.stats
    before, after = both.signal - positive.signal, tensor.rectified.signal - positive.signal
    slope_squared = after / before if before > 0 and after > 0 else 0.0

    def error(fmt: QFormat) -> float:
        kept = positive.squared_error(fmt)
        return kept + slope_squared * (both.squared_error(fmt) - kept)

    return error
