"""The rounding rule for one number, in the small part of Python that compiles for the CPU and for CUDA alike.

These are plain functions; a backend compiles them with its own tool. `x`, `top`, `scale`, `step` and `whole` are all
float32 or all float64, so that no operation widens. `whole` is 2^23 or 2^52, from where on every number is an integer.
Neither fast-math nor fused multiply-add may be allowed where they are compiled.

    split(x) -> negative, i, fraction, odd      |x| saturated and scaled is i + fraction, exactly
    rule(odd, fraction, u, negative) -> up      the scheme, see scheme.py
    join(negative, i, up) -> q
"""

from __future__ import annotations

import numpy as np

from lpcaffe.numbers.rounding.deterministic import rule
from lpcaffe.numbers.rounding.scheme import HALF, Real

ZERO = np.float32(0)
ONE = np.float32(1)


def round_one(x: Real, u: Real, top: Real, scale: Real, step: Real, whole: Real) -> Real:
    """round_fp of one number. `rule` is deterministic's here; compiled.py puts every scheme's in its place.

    NaN passes through the arithmetic unharmed but means nothing there; it is returned as it came, bits and all.
    """
    negative, integer, fraction, odd = split(x, top, scale, whole)
    q = join(negative, integer, rule(odd, fraction, u, negative), step)
    return q if x == x else x


def product(a: Real, b: Real) -> Real:
    """a * b, to be rounded by itself. CUDA has its own, since its compiler would fuse it with the next addition."""
    return a * b


def floor_of(y: Real, whole: Real) -> Real:
    """The largest integer <= y, for y >= 0, with additions and comparisons only: no two targets type `floor` alike.

    Adding 2^23 to a float32 below it leaves no room for a fraction, so the sum is rounded to an integer, ties to even.
    """
    nearest = (y + whole) - whole
    below = nearest - ONE if nearest > y else nearest
    return y if y >= whole else below


def split(x: Real, top: Real, scale: Real, whole: Real) -> tuple[bool, Real, Real, bool]:
    """Saturate |x| to `top`, scale it, and take it apart into an integer (odd or not) and a fraction.

    Saturating first changes nothing, since every scheme leaves integers alone and is monotone, and nothing overflows.
    """
    magnitude = abs(x)
    magnitude = top if magnitude > top else magnitude
    scaled = product(magnitude, scale)
    # A tiny x can underflow when scale < 1. Any tiny number does in its place: all that counts is that it is not 0.
    scaled = magnitude if scaled == ZERO else scaled
    integer = floor_of(scaled, whole)
    half = product(integer, HALF)
    return x < ZERO, integer, scaled - integer, floor_of(half, whole) != half


def join(negative: bool, integer: Real, up: bool, step: Real) -> Real:
    """The value again. 0 - 0 is +0, so that -0.0 never comes out."""
    magnitude = product(integer + ONE if up else integer, step)
    return ZERO - magnitude if negative else magnitude
