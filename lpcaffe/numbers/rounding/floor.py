"""`floor`: toward minus infinity. What ADaPTION's CPU code does when it is asked for STOCHASTIC.

(Its noise is `rand() / RAND_MAX`, an integer division, and so always 0.)
"""

from __future__ import annotations

import numpy as np

from lpcaffe.numbers.rounding.scheme import Bool, Floats, Real, Scheme, register


def rule(odd: bool, fraction: Real, u: Real, negative: bool) -> Bool:
    """A negative number with a fraction moves away from zero."""
    return negative and fraction > 0


def array(y: Floats, u: Floats) -> Floats:
    """`np.floor` is this rule."""
    return np.floor(y, out=y)


register(Scheme("floor", rule, array))
