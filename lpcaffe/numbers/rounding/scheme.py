"""What a rounding scheme is, and the one dictionary of them.

A scheme is written twice, because compiled code sees one number and NumPy a whole array:

`rule(odd, fraction, u, negative) -> bool`
    for compiled code. The scaled magnitude |y| is i + fraction with i an integer, odd or even, and 0 <= fraction < 1,
    both exact. The rule says whether the magnitude becomes i + 1; it must say no when the fraction is 0. `u` is this
    element's random number, 0 <= u < 1 (always 0 unless the scheme is random).
`array(y, u) -> n`
    for NumPy: the integers that the scaled values y become. It may overwrite y and return it. |y| is at most N, or NaN.

The rule uses comparisons and `and`, `or`, `not` only, so that the same few lines compile for the CPU and for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Real = Any  # np.float32 or np.float64, in compiled code or not
Bool = Any  # what comparing them gives
Floats = NDArray[np.floating[Any]]

HALF = np.float32(0.5)
"""1/2 in float32: with a bare 0.5 compiled float32 code would compare in float64."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to turn y into an integer. `random` says that it uses u."""

    name: str
    rule: Callable[[bool, Real, Real, bool], Bool]
    array: Callable[[Floats, Floats], Floats]
    random: bool = False


SCHEMES: dict[str, Scheme] = {}
"""Every scheme by name. `lpcaffe.numbers.rounding` imports each scheme's file, whose last line calls `register`."""


def register(scheme: Scheme) -> None:
    """Add a scheme to SCHEMES."""
    SCHEMES[scheme.name] = scheme
