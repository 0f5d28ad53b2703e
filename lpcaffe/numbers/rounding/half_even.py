"""`half_even`: nearest, ties to the even integer. IEEE 754's default, `rint`, and ONNX QuantizeLinear."""

from __future__ import annotations

import numpy as np

from lpcaffe.numbers.rounding.scheme import HALF, Bool, Floats, Real, Scheme, register


def rule(odd: bool, fraction: Real, u: Real, negative: bool) -> Bool:
    """More than half goes up; half itself goes where the last bit becomes 0."""
    return fraction > HALF or (fraction == HALF and odd)


def array(y: Floats, u: Floats) -> Floats:
    """`np.rint` is this rule."""
    return np.rint(y, out=y)


register(Scheme("half_even", rule, array))
