"""`stochastic`: up with the probability of the fraction, on the magnitude. Caffe's spelling is STOCHASTIC.

The expectation of the result is y, and rounding -y gives the negative of rounding y. Both `floor(y + u)` and
`u < y - floor(y)` look like this scheme and are not: the sum, and for -1/2 < y < 0 the difference, are rounded
themselves. |y| - floor(|y|) is exact in every type.
"""

from __future__ import annotations

import numpy as np

from lpcaffe.numbers.rounding.scheme import Bool, Floats, Real, Scheme, register


def rule(odd: bool, fraction: Real, u: Real, negative: bool) -> Bool:
    """Up when the random number falls into the fraction."""
    return u < fraction


def array(y: Floats, u: Floats) -> Floats:
    """The magnitude's floor, plus 1 where u < fraction, with the sign of y."""
    magnitude = np.abs(y)
    whole = np.floor(magnitude)
    magnitude -= whole
    whole += u < magnitude
    return np.copysign(whole, y, out=y)


register(Scheme("stochastic", rule, array, random=True))
