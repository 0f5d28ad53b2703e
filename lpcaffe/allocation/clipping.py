"""What the methods share that clip at some number of deviations from the mean: aciq-laplace, aciq-gauss, nstd.

A range -R .. R of a format Q(bd).(ad) of w bits, R = 2^(bd - 1), has 2^w steps. The expected squared error of a value
of density f is taken for the sum of clipping and rounding (Banner et al. 2019, arXiv:1810.05723, equations 3 to 5):

    E(R) = T(R - mean) + T(R + mean) + R^2 / (3 * 4^w)            T(t) = integral of (x - t)^2 f(x) from t on

where f has mean 0 and the last term is step^2 / 12. Where a ReLU follows, negative values do not matter: only
T(R - mean) counts and half of the rounding, which for mean 0 is half of the above, so the best range is the same. That
is the paper's half range with w - 1 bits: 2^(w - 1) steps on 0 .. R.
"""

from __future__ import annotations

from collections.abc import Callable

from lpcaffe.allocation.registry import Tensor
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


def clip_value(tensor: Tensor, alpha: float) -> float:
    """The magnitude `alpha` from the mean outwards, at most what was observed.

    |mean| + alpha; where a ReLU follows, which leaves positive values only, max(mean, 0) + alpha. Mean and deviation
    are always those before the ReLU.
    """
    mean = tensor.stats.mean
    if tensor.half_range:
        return min(max(mean, 0.0) + alpha, tensor.read.abs_max)
    return min(abs(mean) + alpha, tensor.stats.abs_max)


def nearest_pow2_range(tensor: Tensor, clip: float, width: int, tail: Callable[[float], float]) -> QFormat:
    """Of the two formats whose ranges lie next to `clip`, above and below, the one with the smaller E(R).

    `tail` is T(t). The one above is the smallest that holds `clip`; of equal errors it wins.
    """
    above = QFormat.holding(clip, width)
    if clip == 0:  # the ReLU leaves nothing
        return above
    below = QFormat(above.bd - 1, above.ad + 1)
    mean, half = tensor.stats.mean, tensor.half_range

    def error(fmt: QFormat) -> float:
        limit = 2.0 ** (fmt.bd - 1)
        rounding = limit**2 / (3 * 4.0**width)
        return tail(limit - mean) + (rounding / 2 if half else tail(limit + mean) + rounding)

    return min(above, below, key=error)


def check_constants(constants: str) -> None:
    """Raise PlanError when the option of an ACIQ method is neither of its values."""
    if constants not in ("exact", "paper"):
        raise PlanError(f"constants: expected exact or paper, got {constants!r}")


def published(table: tuple[float, ...], first: int, bits: int, name: str) -> float:
    """The published multiplier of a number of bits; PlanError where the table, which begins at `first`, has none."""
    if not first <= bits < first + len(table):
        raise PlanError(
            f"the published table of {name} has {first} to {first + len(table) - 1} bits, got {bits}",
            hint=f"{name} without :paper has every width",
        )
    return table[bits - first]
