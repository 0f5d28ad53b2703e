"""`deterministic`: nearest, ties away from zero. C's `round`; Caffe's spelling is DETERMINISTIC."""

from __future__ import annotations

import numpy as np

from lpcaffe.numbers.rounding.scheme import HALF, Bool, Floats, Real, Scheme, register


def rule(odd: bool, fraction: Real, u: Real, negative: bool) -> Bool:
    """Half and more goes up."""
    return fraction >= HALF


def array(y: Floats, u: Floats) -> Floats:
    """Cut off; twice the rest, cut off again, is the step outward. Nothing is rounded on the way.

    y + 1/2 would be: the sum carries 0.49999997 up to 1 and odd integers to their neighbours.
    """
    whole = np.trunc(y)
    y -= whole
    y += y
    np.trunc(y, out=y)
    y += whole
    return y


register(Scheme("deterministic", rule, array))
